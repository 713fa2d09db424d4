// accumulate: a micro-batch's gradient added to those before it in a step, in place:
//   sum = before + g * accumulate_share,   before = 0 for the first micro-batch (accumulate_keep = 0), sum after it
// The first selects zero and does not multiply by it, so that nothing of the last step's sum stays, were it a NaN.
//
// Grid: x, y (folded) groups of 64 vec4f, one a thread; padding becomes zero.
// Uses: step.

struct Accumulate {
    len: u32, // elements of the shard
}

@group(0) @binding(0) var<storage, read_write> sum: array<vec4f>; // [len/4]
@group(0) @binding(1) var<storage, read> g: array<vec4f>;         // [len/4]
@group(0) @binding(2) var<storage, read> scalars: Step;           // [8]
@group(0) @binding(3) var<uniform> accumulate: Accumulate;

@compute @workgroup_size(64)
fn main(@builtin(local_invocation_index) thread: u32, @builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u) {
    let at = (group.x + group.y * groups.x) * 64u + thread;
    if 4u * at >= accumulate.len {
        return;
    }
    let before = select(sum[at], vec4f(), scalars.accumulate_keep == 0.0);
    sum[at] = select(vec4f(), before + g[at] * scalars.accumulate_share, lanes_below(at, accumulate.len));
}
