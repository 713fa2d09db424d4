// sgd: one step of SGD with momentum on a flat shard of parameters, in place (PyTorch's form: no dampening, the decay is part
// of the gradient). With g' = g * factor + weight_decay p for the first `decayed` elements, g * factor for the rest:
//   b = momentum b + g'
//   p = p - lr b,   or with Nesterov's momentum   p - lr (g' + momentum b)
// A gradient that gradient_norm found not finite changes nothing.
//
// Grid: x, y (folded) groups of 64 vec4f, one a thread; padding keeps its values.
// Uses: step.

struct Sgd {
    len: u32,     // elements of the shard
    decayed: u32, // how many of them, from the first, decay
    momentum: f32,
}

override NESTEROV: bool = false;

@group(0) @binding(0) var<storage, read_write> p: array<vec4f>; // [len/4]
@group(0) @binding(1) var<storage, read_write> b: array<vec4f>; // [len/4]
@group(0) @binding(2) var<storage, read> g: array<vec4f>;       // [len/4]
@group(0) @binding(3) var<storage, read> scalars: Step;         // [8]
@group(0) @binding(4) var<storage, read> clip: Clip;            // [factor, norm, skipped, 0]
@group(0) @binding(5) var<uniform> sgd: Sgd;

@compute @workgroup_size(64)
fn main(@builtin(local_invocation_index) thread: u32, @builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u) {
    let at = (group.x + group.y * groups.x) * 64u + thread;
    if 4u * at >= sgd.len || clip.skipped != 0.0 {
        return;
    }
    let live = lanes_below(at, sgd.len);
    let decay = select(vec4f(), vec4f(scalars.weight_decay), lanes_below(at, sgd.decayed));
    let gradient = g[at] * clip.factor + decay * p[at];
    let momentum = sgd.momentum * b[at] + gradient;
    let direction = select(momentum, gradient + sgd.momentum * momentum, NESTEROV);
    b[at] = select(b[at], momentum, live);
    p[at] = select(p[at], p[at] - scalars.lr * direction, live);
}
