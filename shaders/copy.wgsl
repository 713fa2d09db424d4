// copy: y = x, element by element: what a device moves at most, by which other kernels are judged.
//
// Grid: x, y (folded) groups of 64 vec4f, one a thread.

struct Copy {
    vectors: u32, // T * B * N * ceil(C / 4)
}

@group(0) @binding(0) var<storage, read> x: array<vec4f>;              // [T][B*N][C/4]
@group(0) @binding(1) var<storage, read_write> real_out: array<vec4f>; // [T][B*N][C/4]
@group(0) @binding(2) var<uniform> copy: Copy;

@compute @workgroup_size(64)
fn main(@builtin(local_invocation_index) thread: u32, @builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u) {
    let at = (group.x + group.y * groups.x) * 64u + thread;
    if at < copy.vectors {
        real_out[at] = x[at];
    }
}
