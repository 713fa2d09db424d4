// maxpool_real: 3×3 stride-2 pad-1 max-pool of real values; positions outside the grid do not take part:
//   y[t, b, i, j, c] = max over di, dj in -1..1 of x[t, b, 2i + di, 2j + dj, c]
//
// Grid: x, y (folded) groups of 64 output vec4f; one thread makes four channels, neighbours read neighbouring vec4f.

struct MaxpoolReal {
    vectors_out: u32, // T * B * H_out * W_out * vectors
    height: u32,      // of the input
    width: u32,
    vectors: u32,     // vec4f of a token: ceil(C / 4)
}

@group(0) @binding(0) var<storage, read> x: array<vec4f>;              // [T][B][H][W][C/4]
@group(0) @binding(1) var<storage, read_write> real_out: array<vec4f>; // [T][B][ceil(H/2)][ceil(W/2)][C/4]
@group(0) @binding(2) var<uniform> pool: MaxpoolReal;

@compute @workgroup_size(64)
fn main(@builtin(local_invocation_index) thread: u32, @builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u) {
    let out = (group.x + group.y * groups.x) * 64u + thread;
    if out >= pool.vectors_out {
        return;
    }
    let height_out = (pool.height + 1u) / 2u;
    let width_out = (pool.width + 1u) / 2u;
    let vector = out % pool.vectors;
    let j = out / pool.vectors % width_out;
    let i = out / pool.vectors / width_out % height_out;
    let image = out / pool.vectors / width_out / height_out;
    // The window's centre (2i, 2j) always lies inside.
    var largest = x[((image * pool.height + 2u * i) * pool.width + 2u * j) * pool.vectors + vector];
    for (var line = max(2u * i, 1u) - 1u; line < min(2u * i + 2u, pool.height); line += 1u) {
        for (var column = max(2u * j, 1u) - 1u; column < min(2u * j + 2u, pool.width); column += 1u) {
            largest = max(largest, x[((image * pool.height + line) * pool.width + column) * pool.vectors + vector]);
        }
    }
    real_out[out] = largest;
}
