// The LIF neuron's arithmetic on four channels at a time.
//   charge: h = v + (x - (v - v_reset)) / tau          (DECAY_INPUT)
//           h = v - (v - v_reset) / tau + x            (not DECAY_INPUT)
//   fire:   s = [h >= v_threshold], ternary also -[h <= -v_threshold]
//   reset:  v = v_reset where |s| = 1 (hard), v = h - v_threshold s (SOFT_RESET)
// 1/tau comes from the host: WGSL's division is not exact.

override DECAY_INPUT: bool = true;
override SOFT_RESET: bool = false;

struct Neuron {
    v_threshold: f32,
    v_reset: f32,
    inv_tau: f32,
}

fn charge(v: vec4f, x: vec4f, n: Neuron) -> vec4f {
    let leak = v - n.v_reset;
    if DECAY_INPUT {
        return v + (x - leak) * n.inv_tau;
    }
    return v - leak * n.inv_tau + x;
}

fn fire_positive(h: vec4f, n: Neuron) -> vec4<bool> {
    return h >= vec4f(n.v_threshold);
}

fn fire_negative(h: vec4f, n: Neuron) -> vec4<bool> {
    return h <= vec4f(-n.v_threshold);
}

fn reset(h: vec4f, positive: vec4<bool>, negative: vec4<bool>, n: Neuron) -> vec4f {
    if SOFT_RESET {
        return select(select(h, h - n.v_threshold, positive), h + n.v_threshold, negative);
    }
    return select(h, vec4f(n.v_reset), positive | negative);
}

// The four spikes as the low bits of a word, channels beyond `channels` silent.
fn nibble(s: vec4<bool>, first: u32, channels: u32) -> u32 {
    let c = vec4u(first) + vec4u(0u, 1u, 2u, 3u);
    let kept = s & (c < vec4u(channels));
    return dot(select(vec4u(), vec4u(1u, 2u, 4u, 8u), kept), vec4u(1u));
}
