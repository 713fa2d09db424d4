// lif_backward: the gradient of the LIF neuron through time, its membranes recomputed from the input:
//   g_h,t = g_s,t (φ₊ + φ₋) + g_v,t ∂v_t/∂h_t,   g_x,t = g_h,t / tau (g_h,t if undecayed),   g_v,t-1 = g_h,t (1 - 1/tau)
//   hard reset: ∂v/∂h = 1 - |s| [+ (v_reset - h)(φ₊ - φ₋)];   soft: 1 [- v_threshold (φ₊ + φ₋)];   [...] without DETACH_RESET
//   φ₊ = φ(h - v_threshold), φ₋ = φ(-h - v_threshold) for ternary neurons, else 0 (lib/surrogate.wgsl)
// An input that is the same at every timestep (x_steps 1) takes the sum over T. `bn_…`: the neuron's input is x after a batch norm
// by given statistics, as in lif (lib/batch_norm.wgsl), and g_x the gradient of the batch norm's result. `…_in_place` find g_s in
// g_x, whose timesteps are then T.
//
// Grid: x, y (folded) groups of 64 vec4f; a thread owns four channels of a token, forward and back over T, its membranes
// before firing in private memory. They are the forward pass's bits unless a driver fuses batch norm's multiplication and addition
// in one of the two kernels only.
// Order: t descending.
// Uses: batch_norm, neuron, surrogate.

override DETACH_RESET: bool = true;

struct LifBackward {
    vectors: u32,  // B * N * row, one timestep
    row: u32,      // vec4f of a token: ceil(C / 4)
    steps: u32,    // T, at most 32
    x_steps: u32,  // timesteps x holds: T or 1
    v_threshold: f32,
    v_reset: f32,
    inv_tau: f32,
    alpha: f32,
}

@group(0) @binding(0) var<storage, read> x: array<vec4f>;         // [x_steps][B*N][row], the membrane input, or what it was made of
@group(0) @binding(1) var<storage, read> mean: array<vec4f>;      // [row], `bn_` entry points only, as the next three
@group(0) @binding(2) var<storage, read> inv_std: array<vec4f>;   // [row]
@group(0) @binding(3) var<storage, read> gamma: array<vec4f>;     // [row]
@group(0) @binding(4) var<storage, read> beta: array<vec4f>;      // [row]
@group(0) @binding(5) var<storage, read> g_s: array<vec4f>;       // [T][B*N][row], gradient of the spikes
@group(0) @binding(6) var<storage, read_write> g_x: array<vec4f>; // [x_steps][B*N][row], gradient of the input
@group(0) @binding(7) var<uniform> lif: LifBackward;

var<private> h: array<vec4f, 32>; // this thread's membranes before firing, of every timestep
var<private> g_v: vec4f;          // gradient of the membrane after the timestep before

fn neuron() -> Neuron {
    return Neuron(lif.v_threshold, lif.v_reset, lif.inv_tau);
}

fn input(at: u32, t: u32) -> vec4f {
    return x[min(t, lif.x_steps - 1u) * lif.vectors + at];
}

// One timestep forward, from the membrane v on; returns it after firing.
fn advance(t: u32, v: vec4f, input: vec4f, is_ternary: bool) -> vec4f {
    let n = neuron();
    h[t] = charge(v, input, n);
    return reset(h[t], fire_positive(h[t], n), fire_negative(h[t], n) & vec4<bool>(is_ternary), n);
}

fn forward(at: u32, is_ternary: bool) {
    var v = vec4f(lif.v_reset);
    for (var t = 0u; t < lif.steps; t += 1u) {
        v = advance(t, v, input(at, t), is_ternary);
    }
}

fn forward_normalised(at: u32, is_ternary: bool) {
    let c = at % lif.row;
    var v = vec4f(lif.v_reset);
    for (var t = 0u; t < lif.steps; t += 1u) {
        v = advance(t, v, affine(normalise(input(at, t), mean[c], inv_std[c]), gamma[c], beta[c]), is_ternary);
    }
}

// One timestep back: the gradient of the input from that of the spikes.
fn retreat(t: u32, g_spikes: vec4f, is_ternary: bool) -> vec4f {
    let n = neuron();
    let up = surrogate(h[t] - lif.v_threshold, lif.alpha);
    var down = vec4f();
    if is_ternary {
        down = surrogate(-h[t] - lif.v_threshold, lif.alpha);
    }
    let fired = fire_positive(h[t], n) | (fire_negative(h[t], n) & vec4<bool>(is_ternary));
    var through = vec4f(1.0);
    if SOFT_RESET {
        if !DETACH_RESET {
            through -= lif.v_threshold * (up + down);
        }
    } else {
        through = select(vec4f(1.0), vec4f(), fired);
        if !DETACH_RESET {
            through += (lif.v_reset - h[t]) * (up - down);
        }
    }
    let g_h = g_spikes * (up + down) + g_v * through;
    g_v = g_h * (1.0 - lif.inv_tau);
    var g = g_h;
    if DECAY_INPUT {
        g = g_h * lif.inv_tau;
    }
    return g;
}

fn backward(at: u32, is_ternary: bool) {
    g_v = vec4f();
    var sum = vec4f();
    for (var back = 0u; back < lif.steps; back += 1u) {
        let t = lif.steps - 1u - back;
        let g = retreat(t, g_s[t * lif.vectors + at], is_ternary);
        if lif.x_steps == 1u {
            sum += g;
        } else {
            g_x[t * lif.vectors + at] = g;
        }
    }
    if lif.x_steps == 1u {
        g_x[at] = sum;
    }
}

fn backward_in_place(at: u32, is_ternary: bool) {
    g_v = vec4f();
    for (var back = 0u; back < lif.steps; back += 1u) {
        let t = lif.steps - 1u - back;
        g_x[t * lif.vectors + at] = retreat(t, g_x[t * lif.vectors + at], is_ternary);
    }
}

@compute @workgroup_size(64)
fn binary(@builtin(local_invocation_index) thread: u32, @builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u) {
    let at = (group.x + group.y * groups.x) * 64u + thread;
    if at < lif.vectors {
        forward(at, false);
        backward(at, false);
    }
}

@compute @workgroup_size(64)
fn ternary(@builtin(local_invocation_index) thread: u32, @builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u) {
    let at = (group.x + group.y * groups.x) * 64u + thread;
    if at < lif.vectors {
        forward(at, true);
        backward(at, true);
    }
}

@compute @workgroup_size(64)
fn bn_binary(@builtin(local_invocation_index) thread: u32, @builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u) {
    let at = (group.x + group.y * groups.x) * 64u + thread;
    if at < lif.vectors {
        forward_normalised(at, false);
        backward(at, false);
    }
}

@compute @workgroup_size(64)
fn bn_ternary(@builtin(local_invocation_index) thread: u32, @builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u) {
    let at = (group.x + group.y * groups.x) * 64u + thread;
    if at < lif.vectors {
        forward_normalised(at, true);
        backward(at, true);
    }
}

@compute @workgroup_size(64)
fn binary_in_place(@builtin(local_invocation_index) thread: u32, @builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u) {
    let at = (group.x + group.y * groups.x) * 64u + thread;
    if at < lif.vectors {
        forward(at, false);
        backward_in_place(at, false);
    }
}

@compute @workgroup_size(64)
fn ternary_in_place(@builtin(local_invocation_index) thread: u32, @builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u) {
    let at = (group.x + group.y * groups.x) * 64u + thread;
    if at < lif.vectors {
        forward(at, true);
        backward_in_place(at, true);
    }
}

@compute @workgroup_size(64)
fn bn_binary_in_place(@builtin(local_invocation_index) thread: u32, @builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u) {
    let at = (group.x + group.y * groups.x) * 64u + thread;
    if at < lif.vectors {
        forward_normalised(at, false);
        backward_in_place(at, false);
    }
}

@compute @workgroup_size(64)
fn bn_ternary_in_place(@builtin(local_invocation_index) thread: u32, @builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u) {
    let at = (group.x + group.y * groups.x) * 64u + thread;
    if at < lif.vectors {
        forward_normalised(at, true);
        backward_in_place(at, true);
    }
}
