// maxpool_spike: 3×3 stride-2 pad-1 max-pool of packed spikes, which on bits is an OR:
//   y[t, b, i, j, w] = OR over di, dj in -1..1 of s[t, b, 2i + di, 2j + dj, w]
//
// Grid: x, y (folded) groups of 64 output words; one thread makes one word (32 channels), neighbours read neighbouring words.

struct MaxpoolSpike {
    words_out: u32,  // T * B * H_out * W_out * words
    height: u32,     // of the input
    width: u32,
    words: u32,      // of a token
}

@group(0) @binding(0) var<storage, read> spikes_in: array<u32>;        // [T][B][H][W][words]
@group(0) @binding(1) var<storage, read_write> spikes_out: array<u32>; // [T][B][ceil(H/2)][ceil(W/2)][words]
@group(0) @binding(2) var<uniform> pool: MaxpoolSpike;

@compute @workgroup_size(64)
fn main(@builtin(local_invocation_index) thread: u32, @builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u) {
    let out = (group.x + group.y * groups.x) * 64u + thread;
    if out >= pool.words_out {
        return;
    }
    let height_out = (pool.height + 1u) / 2u;
    let width_out = (pool.width + 1u) / 2u;
    let word = out % pool.words;
    let j = out / pool.words % width_out;
    let i = out / pool.words / width_out % height_out;
    let image = out / pool.words / width_out / height_out;
    var bits = 0u;
    for (var line = max(2u * i, 1u) - 1u; line < min(2u * i + 2u, pool.height); line += 1u) {
        for (var column = max(2u * j, 1u) - 1u; column < min(2u * j + 2u, pool.width); column += 1u) {
            bits |= spikes_in[((image * pool.height + line) * pool.width + column) * pool.words + word];
        }
    }
    spikes_out[out] = bits;
}
