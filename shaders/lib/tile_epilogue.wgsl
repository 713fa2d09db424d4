// What lib/product_epilogue.wgsl is to lib/spike_product.wgsl, this is to lib/spike_tile.wgsl: batch norm folded to scale and
// shift, then one of
//   real      y = [relu](sum * scale + shift)
//   residual  y = sum * scale + shift + u
//   spikes    LIF over T, packed to bits            (lib/neuron.wgsl)
//   ternary   LIF over T, packed to a plus and a minus plane
// A thread's 8 rows are STEP_BLOCK timesteps of each of 8 / STEP_BLOCK tokens; for T > 8 the membranes are carried from block to
// block in registers.
// The kernel supplies its bindings (`product`, `scale_shift`, `residual`, `real_out`, `spikes_out`) and what
// spike_tile asks for; the entry points are here, one for each epilogue.

// [128 rows][8 threads], of the first tile's outputs plus in bits 0..3 and minus in bits 4..7, of the second's in bits 8..15
var<workgroup> nibbles: array<u32, 1024>;

var<private> this_thread: u32;
var<private> this_tile: u32;   // of rows
var<private> this_o_tile: u32; // of 64 output channels
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

// Token and timestep of row r (0..7) of a row group (a thread's sixteenth of the workgroup).
fn row_token(row_group: u32, r: u32) -> u32 {
    return (this_tile * 16u + row_group) * (8u / STEP_BLOCK) + r / STEP_BLOCK;
}

// Of this thread's row r.
fn own_token(r: u32) -> u32 {
    return row_token(this_thread / 8u, r);
}

fn row_step(r: u32) -> u32 {
    return this_block * STEP_BLOCK + r % STEP_BLOCK;
}

fn row_exists(r: u32) -> bool {
    return row_token(this_thread / 8u, r) < product.rows && row_step(r) < product.steps;
}

// vec4f or word of a row of a row group in the output, without the channel.
fn row_out(row_group: u32, r: u32) -> u32 {
    return (row_step(r) * product.rows + row_token(row_group, r)) * product.out_stride + product.out_first;
}

// This thread's vec4f of outputs in a tile (0, 1) of 32, and whether it exists.
fn vector_of(tile: u32) -> u32 {
    return (this_o_tile * 2u + tile) * 8u + this_thread % 8u;
}

fn vector_exists(tile: u32) -> bool {
    return vector_of(tile) * 4u < product.channels_out;
}

fn normalise(sum: vec4f, tile: u32) -> vec4f {
    // A vec4f past the end reads what stands for another; nothing of it is stored.
    let vector = min(vector_of(tile), (product.channels_out + 31u) / 32u * 8u - 1u);
    return sum * scale_shift[2u * vector] + scale_shift[2u * vector + 1u];
}

fn store_real(r: u32, tile: u32, sum: vec4f) {
    var y = normalise(sum, tile);
    if RELU {
        y = max(y, vec4f());
    }
    if row_exists(r) && vector_exists(tile) {
        real_out[row_out(this_thread / 8u, r) + vector_of(tile)] = y;
    }
}

fn real_row(r: u32) {
    store_real(r, 0u, sums_a[r]);
    store_real(r, 1u, sums_b[r]);
}

fn store_residual(r: u32, tile: u32, sum: vec4f) {
    if row_exists(r) && vector_exists(tile) {
        let at = row_out(this_thread / 8u, r) + vector_of(tile);
        real_out[at] = normalise(sum, tile) + residual[at];
    }
}

fn residual_row(r: u32) {
    store_residual(r, 0u, sums_a[r]);
    store_residual(r, 1u, sums_b[r]);
}

// One timestep of four channels: their membrane and input in, their spikes as plus in bits 0..3, minus in bits 4..7 out.
fn fire(membrane: ptr<function, vec4f>, y: vec4f, tile: u32, is_ternary: bool) -> u32 {
    let n = neuron();
    let h = charge(*membrane, y, n);
    let positive = fire_positive(h, n);
    let negative = fire_negative(h, n) & vec4<bool>(is_ternary);
    *membrane = reset(h, positive, negative, n);
    let channel = vector_of(tile) * 4u;
    return nibble(positive, channel, product.channels_out) | (nibble(negative, channel, product.channels_out) << 4u);
}

fn fire_row(r: u32, is_ternary: bool) {
    var a = membrane_a;
    var b = membrane_b;
    if row_step(r) == 0u {
        a = vec4f(product.v_reset);
        b = vec4f(product.v_reset);
    }
    let bits = fire(&a, normalise(sums_a[r], 0u), 0u, is_ternary) | (fire(&b, normalise(sums_b[r], 1u), 1u, is_ternary) << 8u);
    membrane_a = a;
    membrane_b = b;
    nibbles[(this_thread / 8u * 8u + r) * 8u + this_thread % 8u] = bits;
}

// The word of the workgroup's row `row` (0..127) from its eight nibbles.
fn combine(row: u32, shift: u32) -> u32 {
    var word = 0u;
    for (var i = 0u; i < 8u; i += 1u) {
        word |= ((nibbles[row * 8u + i] >> shift) & 15u) << (4u * i);
    }
    return word;
}

// Ends with every thread's two words, of its own row, stored.
fn fire_rows(is_ternary: bool) {
    fire_row(0u, is_ternary); fire_row(1u, is_ternary); fire_row(2u, is_ternary); fire_row(3u, is_ternary);
    fire_row(4u, is_ternary); fire_row(5u, is_ternary); fire_row(6u, is_ternary); fire_row(7u, is_ternary);
    workgroupBarrier();
    let token = row_token(this_thread / 8u, this_thread % 8u);
    let step = row_step(this_thread % 8u);
    if token < product.rows && step < product.steps {
        let at = row_out(this_thread / 8u, this_thread % 8u) + this_o_tile * 2u;
        for (var tile = 0u; tile < 2u; tile += 1u) {
            if (this_o_tile * 2u + tile) * 32u < product.channels_out {
                spikes_out[at + tile] = combine(this_thread, 8u * tile);
                if is_ternary {
                    spikes_out[at + tile + product.minus_plane] = combine(this_thread, 8u * tile + 4u);
                }
            }
        }
    }
}

@compute @workgroup_size(128)
fn real(@builtin(local_invocation_index) thread: u32, @builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u) {
    if !begin(thread, group, groups) {
        return;
    }
    for (var block = 0u; block < step_blocks(); block += 1u) {
        this_block = block;
        spike_product(thread);
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
        spike_product(thread);
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
        spike_product(thread);
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
        spike_product(thread);
        fire_rows(true);
    }
}
