// ema: an exponential moving average of a flat shard of parameters, in place:
//   e = e + (1 - ema_decay) (p - e)
//
// Grid: x, y (folded) groups of 64 vec4f, one a thread; padding keeps its values.
// Uses: step.

struct Ema {
    len: u32, // elements of the shard
}

@group(0) @binding(0) var<storage, read_write> e: array<vec4f>; // [len/4]
@group(0) @binding(1) var<storage, read> p: array<vec4f>;       // [len/4]
@group(0) @binding(2) var<storage, read> scalars: Step;         // [8]
@group(0) @binding(3) var<uniform> ema: Ema;

@compute @workgroup_size(64)
fn main(@builtin(local_invocation_index) thread: u32, @builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u) {
    let at = (group.x + group.y * groups.x) * 64u + thread;
    if 4u * at >= ema.len {
        return;
    }
    let next = e[at] + (1.0 - scalars.ema_decay) * (p[at] - e[at]);
    e[at] = select(e[at], next, lanes_below(at, ema.len));
}
