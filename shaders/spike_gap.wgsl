// spike_gap: global average pool of spikes over timesteps and tokens, the firing rate of every channel:
//   y[b, c] = (Σ_t Σ_n s[t, b, n, c]) / (T N)
// The mean over T commutes with the head's linear layer, so it is taken here, where it is a count of bits and exact.
//
// Grid: x word of 32 channels, y and z (folded) image. The workgroup reads 64 tokens' words at a time; thread c (0..31) counts
// bit c of the even tokens, thread 32 + c of the odd ones.
// Order: integers, so any.

struct SpikeGap {
    steps: u32,   // T
    batch: u32,
    tokens: u32,  // N
    words: u32,   // of a token
    stride: u32,  // floats of an output row: C rounded up to 4
    inv_count: f32, // 1 / (T N)
}

@group(0) @binding(0) var<storage, read> spikes_in: array<u32>;       // [T][B][N][words]
@group(0) @binding(1) var<storage, read_write> rate_out: array<f32>;  // [B][stride]
@group(0) @binding(2) var<uniform> gap: SpikeGap;

var<workgroup> staged: array<u32, 64>;

@compute @workgroup_size(64)
fn main(@builtin(local_invocation_index) thread: u32, @builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u) {
    let image = group.y + group.z * groups.y;
    if image >= gap.batch {
        return;
    }
    let rows = gap.steps * gap.tokens;
    let bit = thread % 32u;
    let odd = thread / 32u;
    var count = 0u;
    for (var first = 0u; first < rows; first += 64u) {
        let row = first + thread;
        var word = 0u;
        if row < rows {
            let t = row / gap.tokens;
            word = spikes_in[((t * gap.batch + image) * gap.tokens + row % gap.tokens) * gap.words + group.x];
        }
        staged[thread] = word;
        workgroupBarrier();
        for (var i = odd; i < 64u; i += 2u) {
            count += (staged[i] >> bit) & 1u;
        }
        workgroupBarrier();
    }
    staged[thread] = count;
    workgroupBarrier();
    let channel = group.x * 32u + bit;
    if odd == 0u && channel < gap.stride {
        rate_out[image * gap.stride + channel] = f32(staged[bit] + staged[bit + 32u]) * gap.inv_count;
    }
}
