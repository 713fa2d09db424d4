// adamw: one step of AdamW (arXiv 1711.05101, algorithm 2) on a flat shard of parameters, in place. With g' = g * factor:
//   m = beta1 m + (1 - beta1) g'
//   v = beta2 v + (1 - beta2) g'²
//   p = p keep - lr (m correction1) / (sqrt(v correction2) + eps)
// where keep = 1 - lr weight_decay for the first `decayed` elements and 1 for the rest. A gradient that gradient_norm found
// not finite changes nothing.
//
// Grid: x, y (folded) groups of 64 vec4f, one a thread; padding keeps its values.
// Uses: step.

struct Adamw {
    len: u32,     // elements of the shard
    decayed: u32, // how many of them, from the first, decay
    beta1: f32,
    share1: f32,  // 1 - beta1, which f32 would round
    beta2: f32,
    share2: f32,  // 1 - beta2
    eps: f32,
}

@group(0) @binding(0) var<storage, read_write> p: array<vec4f>; // [len/4]
@group(0) @binding(1) var<storage, read_write> m: array<vec4f>; // [len/4]
@group(0) @binding(2) var<storage, read_write> v: array<vec4f>; // [len/4]
@group(0) @binding(3) var<storage, read> g: array<vec4f>;       // [len/4]
@group(0) @binding(4) var<storage, read> scalars: Step;         // [8]
@group(0) @binding(5) var<storage, read> clip: Clip;            // [factor, norm, skipped, 0]
@group(0) @binding(6) var<uniform> adamw: Adamw;

@compute @workgroup_size(64)
fn main(@builtin(local_invocation_index) thread: u32, @builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u) {
    let at = (group.x + group.y * groups.x) * 64u + thread;
    if 4u * at >= adamw.len || clip.skipped != 0.0 {
        return;
    }
    let live = lanes_below(at, adamw.len);
    let gradient = g[at] * clip.factor;
    let first = adamw.beta1 * m[at] + adamw.share1 * gradient;
    let second = adamw.beta2 * v[at] + adamw.share2 * (gradient * gradient);
    let keep = select(vec4f(1.0), vec4f(scalars.keep), lanes_below(at, adamw.decayed));
    let root = sqrt(second * scalars.correction2) + vec4f(adamw.eps);
    let next = p[at] * keep - scalars.lr * (first * scalars.correction1) / root;
    m[at] = select(m[at], first, live);
    v[at] = select(v[at], second, live);
    p[at] = select(p[at], next, live);
}
