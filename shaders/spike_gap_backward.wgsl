// spike_gap_backward: every spike of an image shares in its channel's mean:
//   g_s[t, b, n, c] = g_rate[b, c] * (1 / (T N))
//
// Grid: x, y (folded) groups of 64 vec4f of g_s; one thread makes four channels of a token.

struct SpikeGapBackward {
    count: u32,     // T * B * N * vectors
    batch: u32,
    tokens: u32,    // N
    vectors: u32,   // vec4f of a token: ceil(C / 4)
    inv_count: f32, // 1 / (T N)
}

@group(0) @binding(0) var<storage, read> g_rate: array<vec4f>;    // [B][C/4]
@group(0) @binding(1) var<storage, read_write> g_s: array<vec4f>; // [T][B][N][C/4]
@group(0) @binding(2) var<uniform> gap: SpikeGapBackward;

@compute @workgroup_size(64)
fn main(@builtin(local_invocation_index) thread: u32, @builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u) {
    let at = (group.x + group.y * groups.x) * 64u + thread;
    if at < gap.count {
        let image = at / gap.vectors / gap.tokens % gap.batch;
        g_s[at] = g_rate[image * gap.vectors + at % gap.vectors] * gap.inv_count;
    }
}
