// lif: the leaky integrate-and-fire neuron over T of a real tensor, packed to bits (`spikes`) or to a plus and a minus
// plane (`ternary`); `…_trace` also write the membrane before firing, and `bn_…` first apply a batch norm by given statistics to
// x, as bn_apply does. Equations: lib/neuron.wgsl, lib/batch_norm.wgsl. For software drivers, where workgroup memory and barriers
// cost more than they save.
//
// Grid: x, y (folded) groups of 64 output words. A thread makes a word alone: 32 channels, their membranes in registers while it
// goes through T.
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

var<private> membranes: array<vec4f, 8>; // of the word's 32 channels
var<private> plus_word: u32;
var<private> minus_word: u32;

struct Place {
    row: u32,
    word: u32,      // within the window
    inside: bool,
}

fn place(thread: u32, group: vec3u, groups: vec3u) -> Place {
    let unit = (group.x + group.y * groups.x) * 64u + thread;
    let row = unit / lif.words;
    // A thread past the end goes through the last row and stores nothing.
    return Place(min(row, lif.rows - 1u), unit % lif.words, row < lif.rows);
}

// The v-th (0..7) vec4f of the word's channels within a token, the last one where there are fewer: nothing is kept of it.
fn vector_of(v: u32, p: Place) -> u32 {
    return min(p.word * 8u + v, lif.x_stride - 1u);
}

fn plain(v: u32, p: Place, t: u32) -> vec4f {
    return x[(min(t, lif.x_steps - 1u) * lif.rows + p.row) * lif.x_stride + vector_of(v, p)];
}

// x after batch norm.
fn normalised(v: u32, p: Place, t: u32) -> vec4f {
    let c = vector_of(v, p);
    return affine(normalise(plain(v, p, t), mean[c], inv_std[c]), gamma[c], beta[c]);
}

// One timestep of the word's v-th vec4f. Written out for each: an array that a variable indexes lies in memory.
fn advance(v: u32, input: vec4f, p: Place, is_ternary: bool) -> vec4f {
    let n = Neuron(lif.v_threshold, lif.v_reset, lif.inv_tau);
    let h = charge(membranes[v], input, n);
    let positive = fire_positive(h, n);
    let negative = fire_negative(h, n) & vec4<bool>(is_ternary);
    membranes[v] = reset(h, positive, negative, n);
    let channel = (p.word * 8u + v) * 4u;
    plus_word |= nibble(positive, channel, lif.channels) << (4u * v);
    minus_word |= nibble(negative, channel, lif.channels) << (4u * v);
    return h;
}

fn trace(v: u32, p: Place, t: u32, h: vec4f) {
    let vector = p.word * 8u + v;
    if p.inside && vector < lif.x_stride {
        h_out[(t * lif.rows + p.row) * lif.x_stride + vector] = h;
    }
}

fn begin() {
    let start = vec4f(lif.v_reset);
    membranes = array<vec4f, 8>(start, start, start, start, start, start, start, start);
}

fn begin_step() {
    plus_word = 0u;
    minus_word = 0u;
}

fn store(p: Place, t: u32, is_ternary: bool) {
    if p.inside {
        let at = (t * lif.rows + p.row) * lif.out_stride + lif.out_first + p.word;
        spikes_out[at] = plus_word;
        if is_ternary {
            spikes_out[at + lif.minus_plane] = minus_word;
        }
    }
}

// T through the subgroup: lavapipe makes a shader anew, at every dispatch, for the value of each loop's bound that it finds in
// the uniform.
fn steps() -> u32 {
    return subgroupBroadcastFirst(lif.steps);
}

fn fire(p: Place, is_ternary: bool) {
    begin();
    for (var t = 0u; t < steps(); t += 1u) {
        begin_step();
        _ = advance(0u, plain(0u, p, t), p, is_ternary);
        _ = advance(1u, plain(1u, p, t), p, is_ternary);
        _ = advance(2u, plain(2u, p, t), p, is_ternary);
        _ = advance(3u, plain(3u, p, t), p, is_ternary);
        _ = advance(4u, plain(4u, p, t), p, is_ternary);
        _ = advance(5u, plain(5u, p, t), p, is_ternary);
        _ = advance(6u, plain(6u, p, t), p, is_ternary);
        _ = advance(7u, plain(7u, p, t), p, is_ternary);
        store(p, t, is_ternary);
    }
}

fn fire_traced(p: Place, is_ternary: bool) {
    begin();
    for (var t = 0u; t < steps(); t += 1u) {
        begin_step();
        trace(0u, p, t, advance(0u, plain(0u, p, t), p, is_ternary));
        trace(1u, p, t, advance(1u, plain(1u, p, t), p, is_ternary));
        trace(2u, p, t, advance(2u, plain(2u, p, t), p, is_ternary));
        trace(3u, p, t, advance(3u, plain(3u, p, t), p, is_ternary));
        trace(4u, p, t, advance(4u, plain(4u, p, t), p, is_ternary));
        trace(5u, p, t, advance(5u, plain(5u, p, t), p, is_ternary));
        trace(6u, p, t, advance(6u, plain(6u, p, t), p, is_ternary));
        trace(7u, p, t, advance(7u, plain(7u, p, t), p, is_ternary));
        store(p, t, is_ternary);
    }
}

fn fire_normalised(p: Place, is_ternary: bool) {
    begin();
    for (var t = 0u; t < steps(); t += 1u) {
        begin_step();
        _ = advance(0u, normalised(0u, p, t), p, is_ternary);
        _ = advance(1u, normalised(1u, p, t), p, is_ternary);
        _ = advance(2u, normalised(2u, p, t), p, is_ternary);
        _ = advance(3u, normalised(3u, p, t), p, is_ternary);
        _ = advance(4u, normalised(4u, p, t), p, is_ternary);
        _ = advance(5u, normalised(5u, p, t), p, is_ternary);
        _ = advance(6u, normalised(6u, p, t), p, is_ternary);
        _ = advance(7u, normalised(7u, p, t), p, is_ternary);
        store(p, t, is_ternary);
    }
}

fn fire_normalised_traced(p: Place, is_ternary: bool) {
    begin();
    for (var t = 0u; t < steps(); t += 1u) {
        begin_step();
        trace(0u, p, t, advance(0u, normalised(0u, p, t), p, is_ternary));
        trace(1u, p, t, advance(1u, normalised(1u, p, t), p, is_ternary));
        trace(2u, p, t, advance(2u, normalised(2u, p, t), p, is_ternary));
        trace(3u, p, t, advance(3u, normalised(3u, p, t), p, is_ternary));
        trace(4u, p, t, advance(4u, normalised(4u, p, t), p, is_ternary));
        trace(5u, p, t, advance(5u, normalised(5u, p, t), p, is_ternary));
        trace(6u, p, t, advance(6u, normalised(6u, p, t), p, is_ternary));
        trace(7u, p, t, advance(7u, normalised(7u, p, t), p, is_ternary));
        store(p, t, is_ternary);
    }
}

@compute @workgroup_size(64)
fn spikes(@builtin(local_invocation_index) thread: u32, @builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u) {
    fire(place(thread, group, groups), false);
}

@compute @workgroup_size(64)
fn ternary(@builtin(local_invocation_index) thread: u32, @builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u) {
    fire(place(thread, group, groups), true);
}

@compute @workgroup_size(64)
fn spikes_trace(@builtin(local_invocation_index) thread: u32, @builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u) {
    fire_traced(place(thread, group, groups), false);
}

@compute @workgroup_size(64)
fn ternary_trace(@builtin(local_invocation_index) thread: u32, @builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u) {
    fire_traced(place(thread, group, groups), true);
}

@compute @workgroup_size(64)
fn bn_spikes(@builtin(local_invocation_index) thread: u32, @builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u) {
    fire_normalised(place(thread, group, groups), false);
}

@compute @workgroup_size(64)
fn bn_ternary(@builtin(local_invocation_index) thread: u32, @builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u) {
    fire_normalised(place(thread, group, groups), true);
}

@compute @workgroup_size(64)
fn bn_spikes_trace(@builtin(local_invocation_index) thread: u32, @builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u) {
    fire_normalised_traced(place(thread, group, groups), false);
}

@compute @workgroup_size(64)
fn bn_ternary_trace(@builtin(local_invocation_index) thread: u32, @builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u) {
    fire_normalised_traced(place(thread, group, groups), true);
}
