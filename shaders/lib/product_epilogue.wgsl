// What follows a spike product inside the same kernel: batch norm folded to scale and shift, then one of
//   real      y = [relu](sum * scale + shift)
//   residual  y = sum * scale + shift + u
//   spikes    LIF over T, packed to bits            (lib/neuron.wgsl)
//   ternary   LIF over T, packed to a plus and a minus plane
// A thread's 8 rows are STEP_BLOCK timesteps of each of 8 / STEP_BLOCK tokens, so one load of the weights serves
// all of them; for T > 8 the membrane is carried from block to block in a register.
// The kernel supplies its bindings (`product`, `scale_shift`, `residual`, `real_out`, `spikes_out`), chunks() and what
// spike_product asks for; the entry points are here, one for each epilogue. Uniform: lib/product_parameters.wgsl.

var<workgroup> nibbles: array<u32, 512>; // [64 rows][8], plus in bits 0..3, minus in bits 4..7

var<private> this_thread: u32;
var<private> this_tile: u32;   // of rows
var<private> this_o_tile: u32; // of 32 output channels
var<private> this_block: u32;  // of timesteps
var<private> membrane: vec4f;

// Sets the above; false where the folded grid has a workgroup too many.
fn begin(thread: u32, group: vec3u, groups: vec3u) -> bool {
    let tile = group.x + group.y * groups.x;
    this_thread = thread;
    this_tile = tile;
    this_o_tile = group.z;
    // Not `this_tile`: WGSL takes what a private variable holds for different in every thread, and barriers follow.
    return tile < product.tiles;
}

// Token and timestep of row r (0..7) of a row group (a thread's eighth of the workgroup).
fn row_token(row_group: u32, r: u32) -> u32 {
    return (this_tile * 8u + row_group) * (8u / STEP_BLOCK) + r / STEP_BLOCK;
}

// Of this thread's row r.
fn own_token(r: u32) -> u32 {
    return row_token(this_thread / 8u, r);
}

fn row_step(r: u32) -> u32 {
    return this_block * STEP_BLOCK + r % STEP_BLOCK;
}

fn normalise(sum: vec4f, vector: u32) -> vec4f {
    return sum * scale_shift[2u * vector] + scale_shift[2u * vector + 1u];
}

fn finish_real(sums: array<vec4f, 8>) {
    var all = sums;
    let vector = this_o_tile * 8u + this_thread % 8u;
    if vector * 4u >= product.channels_out {
        return;
    }
    for (var r = 0u; r < THREAD_ROWS; r += 1u) {
        let token = row_token(this_thread / 8u, r);
        let step = row_step(r);
        if token < product.rows && step < product.steps {
            var y = normalise(all[r], vector);
            if RELU {
                y = max(y, vec4f());
            }
            real_out[(step * product.rows + token) * product.out_stride + product.out_first + vector] = y;
        }
    }
}

fn finish_residual(sums: array<vec4f, 8>) {
    var all = sums;
    let vector = this_o_tile * 8u + this_thread % 8u;
    if vector * 4u >= product.channels_out {
        return;
    }
    for (var r = 0u; r < THREAD_ROWS; r += 1u) {
        let token = row_token(this_thread / 8u, r);
        let step = row_step(r);
        if token < product.rows && step < product.steps {
            let at = (step * product.rows + token) * product.out_stride + product.out_first + vector;
            real_out[at] = normalise(all[r], vector) + residual[at];
        }
    }
}

// LIF of this thread's rows into `nibbles`; ends with the workgroup's barrier.
fn fire_rows(sums: array<vec4f, 8>, ternary: bool) {
    var all = sums;
    let vector = this_o_tile * 8u + this_thread % 8u;
    let n = neuron();
    for (var r = 0u; r < THREAD_ROWS; r += 1u) {
        if row_step(r) == 0u {
            membrane = vec4f(n.v_reset);
        }
        let h = charge(membrane, normalise(all[r], vector), n);
        let positive = fire_positive(h, n);
        let negative = fire_negative(h, n) & vec4<bool>(ternary);
        membrane = reset(h, positive, negative, n);
        let bits = nibble(positive, vector * 4u, product.channels_out)
            | (nibble(negative, vector * 4u, product.channels_out) << 4u);
        nibbles[(this_thread / 8u * 8u + r) * 8u + this_thread % 8u] = bits;
    }
    workgroupBarrier();
}

// The word of the tile's row `row` (0..63) from its eight nibbles, `shift` 0 for plus and 4 for minus.
fn combine(row: u32, shift: u32) -> u32 {
    var word = 0u;
    for (var i = 0u; i < 8u; i += 1u) {
        word |= ((nibbles[row * 8u + i] >> shift) & 15u) << (4u * i);
    }
    return word;
}

fn finish_spikes(sums: array<vec4f, 8>) {
    fire_rows(sums, false);
    let token = row_token(this_thread / 8u, this_thread % 8u);
    let step = row_step(this_thread % 8u);
    if token < product.rows && step < product.steps {
        let at = (step * product.rows + token) * product.out_stride + product.out_first + this_o_tile;
        spikes_out[at] = combine(this_thread, 0u);
    }
}

fn finish_ternary(sums: array<vec4f, 8>) {
    fire_rows(sums, true);
    let token = row_token(this_thread / 8u, this_thread % 8u);
    let step = row_step(this_thread % 8u);
    if token < product.rows && step < product.steps {
        let at = (step * product.rows + token) * product.out_stride + product.out_first + this_o_tile;
        spikes_out[at] = combine(this_thread, 0u);
        spikes_out[at + product.minus_plane] = combine(this_thread, 4u);
    }
}

@compute @workgroup_size(64)
fn real(@builtin(local_invocation_index) thread: u32, @builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u) {
    if !begin(thread, group, groups) {
        return;
    }
    for (var block = 0u; block < step_blocks(); block += 1u) {
        this_block = block;
        finish_real(spike_product(thread, chunks()));
    }
}

@compute @workgroup_size(64)
fn residual_real(@builtin(local_invocation_index) thread: u32, @builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u) {
    if !begin(thread, group, groups) {
        return;
    }
    for (var block = 0u; block < step_blocks(); block += 1u) {
        this_block = block;
        finish_residual(spike_product(thread, chunks()));
    }
}

@compute @workgroup_size(64)
fn spikes(@builtin(local_invocation_index) thread: u32, @builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u) {
    if !begin(thread, group, groups) {
        return;
    }
    for (var block = 0u; block < step_blocks(); block += 1u) {
        this_block = block;
        finish_spikes(spike_product(thread, chunks()));
    }
}

@compute @workgroup_size(64)
fn ternary(@builtin(local_invocation_index) thread: u32, @builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u) {
    if !begin(thread, group, groups) {
        return;
    }
    for (var block = 0u; block < step_blocks(); block += 1u) {
        this_block = block;
        finish_ternary(spike_product(thread, chunks()));
    }
}
