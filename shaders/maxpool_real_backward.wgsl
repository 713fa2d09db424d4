// maxpool_real_backward: the gradient of maxpool_real goes to the first maximum of each window:
//   g_x[r, c] = Σ over windows whose first maximum is (r, c) of g_y[i, j]     (lib/maxpool_backward.wgsl)
//
// Grid: x, y (folded) groups of 64 input vec4f; one thread makes four channels of a position.
// Uses: maxpool_backward.

@group(0) @binding(0) var<storage, read> x: array<vec4f>;         // [T][B][H][W][C/4]
@group(0) @binding(1) var<storage, read> g_y: array<vec4f>;       // [T][B][ceil(H/2)][ceil(W/2)][C/4]
@group(0) @binding(2) var<storage, read_write> g_x: array<vec4f>; // [T][B][H][W][C/4]
@group(0) @binding(3) var<uniform> pool: MaxpoolBackward;

fn value(token: u32, vector: u32) -> vec4f {
    return x[token * pool.vectors + vector];
}

@compute @workgroup_size(64)
fn main(@builtin(local_invocation_index) thread: u32, @builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u) {
    let at = (group.x + group.y * groups.x) * 64u + thread;
    if at < pool.count {
        g_x[at] = gather(at);
    }
}
