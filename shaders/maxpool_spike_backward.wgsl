// maxpool_spike_backward: the gradient of maxpool_spike goes to the first spike of each window, of a silent window to its first
// position inside the grid, which is its first maximum:
//   g_s[r, c] = Σ over windows whose first maximum is (r, c) of g_y[i, j]     (lib/maxpool_backward.wgsl)
//
// Grid: x, y (folded) groups of 64 vec4f of g_s; one thread makes four channels of a position.
// Uses: maxpool_backward.

@group(0) @binding(0) var<storage, read> spikes_in: array<u32>;   // [T][B][H][W][ceil(C/32)]
@group(0) @binding(1) var<storage, read> g_y: array<vec4f>;       // [T][B][ceil(H/2)][ceil(W/2)][C/4]
@group(0) @binding(2) var<storage, read_write> g_s: array<vec4f>; // [T][B][H][W][C/4]
@group(0) @binding(3) var<uniform> pool: MaxpoolBackward;

fn value(token: u32, vector: u32) -> vec4f {
    let words = (pool.vectors + 7u) / 8u;
    let bits = spikes_in[token * words + vector / 8u] >> (vector % 8u * 4u);
    return vec4f((vec4u(bits) >> vec4u(0u, 1u, 2u, 3u)) & vec4u(1u));
}

@compute @workgroup_size(64)
fn main(@builtin(local_invocation_index) thread: u32, @builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u) {
    let at = (group.x + group.y * groups.x) * 64u + thread;
    if at < pool.count {
        g_s[at] = gather(at);
    }
}
