// lif: the leaky integrate-and-fire neuron over T of a real tensor, packed to bits (`spikes`) or to a plus and a minus
// plane (`ternary`); `…_trace` also write the membrane before firing, and `bn_…` first apply a batch norm by given statistics to
// x, as bn_apply does. Equations: lib/neuron.wgsl, lib/batch_norm.wgsl.
//
// Grid: x, y (folded) groups of 8 output words. A workgroup's 64 threads own 4 channels (one vec4f) each, the membrane in a
// register while the kernel loops over T; eight threads' half-bytes make one word through workgroup memory.
// Uses: batch_norm, neuron.

struct Lif {
    rows: u32,        // B * N tokens
    steps: u32,       // T
    x_steps: u32,     // timesteps x holds: T, or 1 where x is the same at every timestep
    channels: u32,    // of this window
    words: u32,       // output words of this window: ceil(channels / 32)
    x_stride: u32,    // vec4f of an input token: ceil(channels / 4)
    out_stride: u32,  // words from one output token to the next
    out_first: u32,   // first word of this window
    minus_plane: u32, // words from a token's plus word to its minus word (ternary)
    v_threshold: f32,
    v_reset: f32,
    inv_tau: f32,
}

@group(0) @binding(0) var<storage, read> x: array<vec4f>;              // [x_steps][B*N][x_stride]
@group(0) @binding(1) var<storage, read> mean: array<vec4f>;           // [x_stride], `bn_` entry points only, as the next three
@group(0) @binding(2) var<storage, read> inv_std: array<vec4f>;        // [x_stride]
@group(0) @binding(3) var<storage, read> gamma: array<vec4f>;          // [x_stride]
@group(0) @binding(4) var<storage, read> beta: array<vec4f>;           // [x_stride]
@group(0) @binding(5) var<storage, read_write> spikes_out: array<u32>; // [T][B*N][words] or [T][B*N][plus, minus][words]
@group(0) @binding(6) var<storage, read_write> h_out: array<vec4f>;    // [T][B*N][x_stride], traces only
@group(0) @binding(7) var<uniform> lif: Lif;

var<workgroup> nibbles: array<u32, 128>; // two timesteps in turn of [8 words][8 threads], plus in bits 0..3, minus in bits 4..7

struct Place {
    row: u32,
    word: u32,      // within the window
    vector: u32,    // vec4f within the token
    inside: bool,
    stored: bool,   // whether x has that vec4f
}

fn place(thread: u32, group: vec3u, groups: vec3u) -> Place {
    let unit = (group.x + group.y * groups.x) * 8u + thread / 8u;
    let row = unit / lif.words;
    let word = unit % lif.words;
    let vector = word * 8u + thread % 8u;
    let inside = row < lif.rows;
    return Place(row, word, vector, inside, inside && vector < lif.x_stride);
}

fn combine(half: u32, word: u32, shift: u32) -> u32 {
    var bits = 0u;
    for (var i = 0u; i < 8u; i += 1u) {
        bits |= ((nibbles[half * 64u + word * 8u + i] >> shift) & 15u) << (4u * i);
    }
    return bits;
}

// x of this thread's four channels, zeros where there is none.
fn plain(p: Place, t: u32) -> vec4f {
    var input = vec4f();
    if p.stored {
        input = x[(min(t, lif.x_steps - 1u) * lif.rows + p.row) * lif.x_stride + p.vector];
    }
    return input;
}

// x after batch norm.
fn normalised(p: Place, t: u32) -> vec4f {
    var input = plain(p, t);
    if p.stored {
        let c = p.vector;
        input = affine(normalise(input, mean[c], inv_std[c]), gamma[c], beta[c]);
    }
    return input;
}

// One timestep of this thread's four channels: returns h, leaves the reset membrane in v and the spikes in `nibbles`.
fn advance(v: ptr<function, vec4f>, input: vec4f, p: Place, thread: u32, t: u32, is_ternary: bool) -> vec4f {
    let n = Neuron(lif.v_threshold, lif.v_reset, lif.inv_tau);
    let h = charge(*v, input, n);
    let positive = fire_positive(h, n);
    let negative = fire_negative(h, n) & vec4<bool>(is_ternary);
    *v = reset(h, positive, negative, n);
    let bits = nibble(positive, p.vector * 4u, lif.channels) | (nibble(negative, p.vector * 4u, lif.channels) << 4u);
    nibbles[t % 2u * 64u + thread] = bits;
    // One barrier a timestep is enough: the next one writes the other half.
    workgroupBarrier();
    return h;
}

fn store(p: Place, thread: u32, t: u32, is_ternary: bool) {
    if thread % 8u == 0u && p.inside {
        let at = (t * lif.rows + p.row) * lif.out_stride + lif.out_first + p.word;
        spikes_out[at] = combine(t % 2u, thread / 8u, 0u);
        if is_ternary {
            spikes_out[at + lif.minus_plane] = combine(t % 2u, thread / 8u, 4u);
        }
    }
}

fn trace(p: Place, t: u32, h: vec4f) {
    if p.stored {
        h_out[(t * lif.rows + p.row) * lif.x_stride + p.vector] = h;
    }
}

@compute @workgroup_size(64)
fn spikes(@builtin(local_invocation_index) thread: u32, @builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u) {
    let p = place(thread, group, groups);
    var v = vec4f(lif.v_reset);
    for (var t = 0u; t < lif.steps; t += 1u) {
        _ = advance(&v, plain(p, t), p, thread, t, false);
        store(p, thread, t, false);
    }
}

@compute @workgroup_size(64)
fn ternary(@builtin(local_invocation_index) thread: u32, @builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u) {
    let p = place(thread, group, groups);
    var v = vec4f(lif.v_reset);
    for (var t = 0u; t < lif.steps; t += 1u) {
        _ = advance(&v, plain(p, t), p, thread, t, true);
        store(p, thread, t, true);
    }
}

@compute @workgroup_size(64)
fn spikes_trace(@builtin(local_invocation_index) thread: u32, @builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u) {
    let p = place(thread, group, groups);
    var v = vec4f(lif.v_reset);
    for (var t = 0u; t < lif.steps; t += 1u) {
        trace(p, t, advance(&v, plain(p, t), p, thread, t, false));
        store(p, thread, t, false);
    }
}

@compute @workgroup_size(64)
fn ternary_trace(@builtin(local_invocation_index) thread: u32, @builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u) {
    let p = place(thread, group, groups);
    var v = vec4f(lif.v_reset);
    for (var t = 0u; t < lif.steps; t += 1u) {
        trace(p, t, advance(&v, plain(p, t), p, thread, t, true));
        store(p, thread, t, true);
    }
}

@compute @workgroup_size(64)
fn bn_spikes(@builtin(local_invocation_index) thread: u32, @builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u) {
    let p = place(thread, group, groups);
    var v = vec4f(lif.v_reset);
    for (var t = 0u; t < lif.steps; t += 1u) {
        _ = advance(&v, normalised(p, t), p, thread, t, false);
        store(p, thread, t, false);
    }
}

@compute @workgroup_size(64)
fn bn_ternary(@builtin(local_invocation_index) thread: u32, @builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u) {
    let p = place(thread, group, groups);
    var v = vec4f(lif.v_reset);
    for (var t = 0u; t < lif.steps; t += 1u) {
        _ = advance(&v, normalised(p, t), p, thread, t, true);
        store(p, thread, t, true);
    }
}

@compute @workgroup_size(64)
fn bn_spikes_trace(@builtin(local_invocation_index) thread: u32, @builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u) {
    let p = place(thread, group, groups);
    var v = vec4f(lif.v_reset);
    for (var t = 0u; t < lif.steps; t += 1u) {
        trace(p, t, advance(&v, normalised(p, t), p, thread, t, false));
        store(p, thread, t, false);
    }
}

@compute @workgroup_size(64)
fn bn_ternary_trace(@builtin(local_invocation_index) thread: u32, @builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u) {
    let p = place(thread, group, groups);
    var v = vec4f(lif.v_reset);
    for (var t = 0u; t < lif.steps; t += 1u) {
        trace(p, t, advance(&v, normalised(p, t), p, thread, t, true));
        store(p, thread, t, true);
    }
}
