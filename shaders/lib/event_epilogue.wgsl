// What lib/product_epilogue.wgsl is to lib/spike_product.wgsl, this is to lib/spike_events.wgsl: batch norm folded to scale and
// shift, then one of
//   real      y = [relu](sum * scale + shift)
//   residual  y = sum * scale + shift + u
//   spikes    LIF over T, packed to bits            (lib/neuron.wgsl)
//   ternary   LIF over T, packed to a plus and a minus plane
// A thread's rows are STEP_BLOCK timesteps of its token; for T > 8 its membranes are carried from block to block in registers.
// The kernel supplies its bindings (`product`, `scale_shift`, `residual`, `real_out`, `spikes_out`) and what
// spike_events asks for; the entry points are here, one for each epilogue.

// [STEP_BLOCK timesteps][128 threads], of the first four outputs plus in bits 0..3 and minus in bits 4..7, of the second in bits 8..15
var<workgroup> nibbles: array<u32, 1024>;

var<private> this_thread: u32;
var<private> this_tile: u32;   // of 128 / LANES tokens
var<private> this_o_tile: u32; // of 4 LANES output channels, if WIDE 8 LANES
var<private> this_block: u32;  // of timesteps
var<private> membrane_a: vec4f;
var<private> membrane_b: vec4f;

// Sets the above; false where the folded grid has a workgroup too many.
fn begin(thread: u32, group: vec3u, groups: vec3u) -> bool {
    let tile = group.x + group.y * groups.x;
    this_thread = thread;
    this_tile = tile;
    this_o_tile = group.z;
    // Not `this_tile`: WGSL takes what a private variable holds for different in every thread, and barriers follow.
    return tile < product.tiles;
}

// Token i of the workgroup.
fn tile_token(i: u32) -> u32 {
    return this_tile * (128u / LANES) + i;
}

// This thread's token, of whatever row.
fn own_token(r: u32) -> u32 {
    return tile_token(this_thread / LANES);
}

fn row_step(r: u32) -> u32 {
    return this_block * STEP_BLOCK + r;
}

fn row_exists(r: u32) -> bool {
    return r < STEP_BLOCK && own_token(r) < product.rows && row_step(r) < product.steps;
}

// vec4f or word of a token's timestep in the output, without the channel.
fn row_out(token: u32, step: u32) -> u32 {
    return (step * product.rows + token) * product.out_stride + product.out_first;
}

// Vectors of outputs that a thread owns.
fn vectors() -> u32 {
    return select(1u, 2u, WIDE);
}

fn own_vector(i: u32) -> u32 {
    return (this_o_tile * vectors() + i) * LANES + this_thread % LANES;
}

fn vector_exists(i: u32) -> bool {
    return i < vectors() && own_vector(i) * 4u < product.channels_out;
}

fn normalise(sum: vec4f, i: u32) -> vec4f {
    // A vec4f past the end reads what stands for another; nothing of it is stored.
    let vector = min(own_vector(i), (product.channels_out + 31u) / 32u * 8u - 1u);
    return sum * scale_shift[2u * vector] + scale_shift[2u * vector + 1u];
}

fn store_real(r: u32, i: u32, sum: vec4f) {
    if row_exists(r) && vector_exists(i) {
        var y = normalise(sum, i);
        if RELU {
            y = max(y, vec4f());
        }
        real_out[row_out(own_token(r), row_step(r)) + own_vector(i)] = y;
    }
}

fn real_row(r: u32) {
    store_real(r, 0u, sums_a[r]);
    store_real(r, 1u, sums_b[r]);
}

fn store_residual(r: u32, i: u32, sum: vec4f) {
    if row_exists(r) && vector_exists(i) {
        let at = row_out(own_token(r), row_step(r)) + own_vector(i);
        real_out[at] = normalise(sum, i) + residual[at];
    }
}

fn residual_row(r: u32) {
    store_residual(r, 0u, sums_a[r]);
    store_residual(r, 1u, sums_b[r]);
}

// One timestep of four channels: their membrane and input in, their spikes as plus in bits 0..3, minus in bits 4..7 out.
fn fire(membrane: ptr<function, vec4f>, y: vec4f, i: u32, is_ternary: bool) -> u32 {
    let n = neuron();
    let h = charge(*membrane, y, n);
    let positive = fire_positive(h, n);
    let negative = fire_negative(h, n) & vec4<bool>(is_ternary);
    *membrane = reset(h, positive, negative, n);
    let channel = own_vector(i) * 4u;
    return nibble(positive, channel, product.channels_out) | (nibble(negative, channel, product.channels_out) << 4u);
}

fn fire_row(r: u32, is_ternary: bool) {
    if r >= STEP_BLOCK {
        return;
    }
    var a = membrane_a;
    var b = membrane_b;
    if row_step(r) == 0u {
        a = vec4f(product.v_reset);
        b = vec4f(product.v_reset);
    }
    var bits = fire(&a, normalise(sums_a[r], 0u), 0u, is_ternary);
    if WIDE {
        bits |= fire(&b, normalise(sums_b[r], 1u), 1u, is_ternary) << 8u;
    }
    membrane_a = a;
    membrane_b = b;
    nibbles[r * 128u + this_thread] = bits;
}

// A word from its eight nibbles.
fn combine(first: u32, shift: u32) -> u32 {
    var word = 0u;
    for (var i = 0u; i < 8u; i += 1u) {
        word |= ((nibbles[first + i] >> shift) & 15u) << (4u * i);
    }
    return word;
}

// Ends with the words of every timestep of the block stored, those of eight threads' outputs by one thread.
fn fire_rows(is_ternary: bool) {
    fire_row(0u, is_ternary); fire_row(1u, is_ternary); fire_row(2u, is_ternary); fire_row(3u, is_ternary);
    fire_row(4u, is_ternary); fire_row(5u, is_ternary); fire_row(6u, is_ternary); fire_row(7u, is_ternary);
    workgroupBarrier();
    let r = this_thread / 16u;
    let first = this_thread % 16u * 8u;
    let token = tile_token(first / LANES);
    if r < STEP_BLOCK && token < product.rows && row_step(r) < product.steps {
        for (var i = 0u; i < vectors(); i += 1u) {
            let word = ((this_o_tile * vectors() + i) * LANES + first % LANES) / 8u;
            if word * 32u < product.channels_out {
                let at = row_out(token, row_step(r)) + word;
                spikes_out[at] = combine(r * 128u + first, 8u * i);
                if is_ternary {
                    spikes_out[at + product.minus_plane] = combine(r * 128u + first, 8u * i + 4u);
                }
            }
        }
    }
    // The next block's spikes take the place of these.
    workgroupBarrier();
}

@compute @workgroup_size(128)
fn real(@builtin(local_invocation_index) thread: u32, @builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u) {
    if !begin(thread, group, groups) {
        return;
    }
    for (var block = 0u; block < step_blocks(); block += 1u) {
        this_block = block;
        spike_product();
        real_row(0u); real_row(1u); real_row(2u); real_row(3u);
        real_row(4u); real_row(5u); real_row(6u); real_row(7u);
    }
}

@compute @workgroup_size(128)
fn residual_real(@builtin(local_invocation_index) thread: u32, @builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u) {
    if !begin(thread, group, groups) {
        return;
    }
    for (var block = 0u; block < step_blocks(); block += 1u) {
        this_block = block;
        spike_product();
        residual_row(0u); residual_row(1u); residual_row(2u); residual_row(3u);
        residual_row(4u); residual_row(5u); residual_row(6u); residual_row(7u);
    }
}

@compute @workgroup_size(128)
fn spikes(@builtin(local_invocation_index) thread: u32, @builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u) {
    if !begin(thread, group, groups) {
        return;
    }
    for (var block = 0u; block < step_blocks(); block += 1u) {
        this_block = block;
        spike_product();
        fire_rows(false);
    }
}

@compute @workgroup_size(128)
fn ternary(@builtin(local_invocation_index) thread: u32, @builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u) {
    if !begin(thread, group, groups) {
        return;
    }
    for (var block = 0u; block < step_blocks(); block += 1u) {
        this_block = block;
        spike_product();
        fire_rows(true);
    }
}
