// lif_backward: the gradient of the LIF neuron through time, its membranes recomputed from the input:
//   g_h,t = g_s,t (φ₊ + φ₋) + g_v,t ∂v_t/∂h_t,   g_x,t = g_h,t / tau (g_h,t if undecayed),   g_v,t-1 = g_h,t (1 - 1/tau)
//   hard reset: ∂v/∂h = 1 - |s| [+ (v_reset - h)(φ₊ - φ₋)];   soft: 1 [- v_threshold (φ₊ + φ₋)];   [...] without DETACH_RESET
//   φ₊ = φ(h - v_threshold), φ₋ = φ(-h - v_threshold) for ternary neurons, else 0 (lib/surrogate.wgsl)
// An input that is the same at every timestep (x_steps 1) takes the sum over T.
//
// Grid: x, y (folded) groups of 64 vec4f; a thread owns four channels of a token, forward and back over T, its membranes
// before firing in private memory.
// Order: t descending.
// Uses: neuron, surrogate.

override DETACH_RESET: bool = true;

struct LifBackward {
    vectors: u32,  // B * N * ceil(C / 4), one timestep
    steps: u32,    // T, at most 32
    x_steps: u32,  // timesteps x holds: T or 1
    v_threshold: f32,
    v_reset: f32,
    inv_tau: f32,
    alpha: f32,
}

@group(0) @binding(0) var<storage, read> x: array<vec4f>;         // [x_steps][B*N][C/4], the membrane input
@group(0) @binding(1) var<storage, read> g_s: array<vec4f>;       // [T][B*N][C/4], gradient of the spikes
@group(0) @binding(2) var<storage, read_write> g_x: array<vec4f>; // [x_steps][B*N][C/4], gradient of the input
@group(0) @binding(3) var<uniform> lif: LifBackward;

fn backward(at: u32, is_ternary: bool) {
    let n = Neuron(lif.v_threshold, lif.v_reset, lif.inv_tau);
    var h: array<vec4f, 32>;
    var v = vec4f(lif.v_reset);
    for (var t = 0u; t < lif.steps; t += 1u) {
        h[t] = charge(v, x[min(t, lif.x_steps - 1u) * lif.vectors + at], n);
        v = reset(h[t], fire_positive(h[t], n), fire_negative(h[t], n) & vec4<bool>(is_ternary), n);
    }
    var g_v = vec4f();
    var sum = vec4f();
    for (var back = 0u; back < lif.steps; back += 1u) {
        let t = lif.steps - 1u - back;
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
        let g_h = g_s[t * lif.vectors + at] * (up + down) + g_v * through;
        g_v = g_h * (1.0 - lif.inv_tau);
        var g = g_h;
        if DECAY_INPUT {
            g = g_h * lif.inv_tau;
        }
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

@compute @workgroup_size(64)
fn binary(@builtin(local_invocation_index) thread: u32, @builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u) {
    let at = (group.x + group.y * groups.x) * 64u + thread;
    if at < lif.vectors {
        backward(at, false);
    }
}

@compute @workgroup_size(64)
fn ternary(@builtin(local_invocation_index) thread: u32, @builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u) {
    let at = (group.x + group.y * groups.x) * 64u + thread;
    if at < lif.vectors {
        backward(at, true);
    }
}
