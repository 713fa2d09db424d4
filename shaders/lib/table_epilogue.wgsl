// What lib/product_epilogue.wgsl is to lib/spike_product.wgsl, this is to lib/spike_table.wgsl: batch norm folded to scale and
// shift, then one of
//   real      y = [relu](sum * scale + shift)
//   residual  y = sum * scale + shift + u
//   spikes    LIF over T, packed to bits            (lib/neuron.wgsl)
//   ternary   LIF over T, packed to a plus and a minus plane
// A workgroup makes 32 outputs, eight at a time. A thread's 16 rows are STEP_BLOCK timesteps of each of 16 / STEP_BLOCK tokens;
// for T > 16 the membranes are carried from block to block. It packs a row's word alone, a byte with each eight outputs.
// The kernel supplies its bindings (`product`, `scale_shift`, `residual`, `real_out`, `spikes_out`) and what spike_table asks
// for; the entry points are here, one for each epilogue.

var<private> this_tile: u32;   // of rows
var<private> this_o_tile: u32; // of 32 output channels
var<private> this_block: u32;  // of timesteps
var<private> batch_norm: array<vec4f, 4>; // scale and shift of outputs 0..3 of the eight, then of 4..7
var<private> membrane_a: vec4f;
var<private> membrane_b: vec4f;
var<private> membranes: array<vec4f, 8>; // of each eight outputs, from one block of timesteps to the next
var<private> plus_words: array<u32, 16>;
var<private> minus_words: array<u32, 16>;

// Sets the above; false where the folded grid has a workgroup too many.
fn begin(lane: u32, group: vec3u, groups: vec3u) -> bool {
    this_lane = lane;
    this_tile = group.x + group.y * groups.x;
    this_o_tile = group.z;
    return this_tile < product.tiles;
}

// A loop's bound through the subgroup: lavapipe makes a shader anew, at every dispatch, for the value of each bound that it finds
// in the uniform.
fn blocks() -> u32 {
    return subgroupBroadcastFirst(step_blocks());
}

// Eights of outputs that this workgroup makes.
fn parts() -> u32 {
    return min(4u, (product.channels_out - this_o_tile * 32u + 7u) / 8u);
}

// The sums of eight outputs, and their batch norm.
fn make(part: u32) {
    this_part = part;
    let first = 2u * (this_o_tile * 8u + part * 2u);
    batch_norm = array<vec4f, 4>(
        scale_shift[first], scale_shift[first + 1u], scale_shift[first + 2u], scale_shift[first + 3u]
    );
    spike_product();
}

fn normalise_a(sum: vec4f) -> vec4f {
    return sum * batch_norm[0] + batch_norm[1];
}

fn normalise_b(sum: vec4f) -> vec4f {
    return sum * batch_norm[2] + batch_norm[3];
}

// Token and timestep of this thread's row r (0..15).
fn own_token(r: u32) -> u32 {
    return (this_tile * (16u / STEP_BLOCK) + r / STEP_BLOCK) * 8u + this_lane;
}

fn row_step(r: u32) -> u32 {
    return this_block * STEP_BLOCK + r % STEP_BLOCK;
}

fn row_exists(r: u32) -> bool {
    return own_token(r) < product.rows && row_step(r) < product.steps;
}

// vec4f or word of row r in the output, without the channel.
fn row_out(r: u32) -> u32 {
    return (row_step(r) * product.rows + own_token(r)) * product.out_stride + product.out_first;
}

fn real_row(r: u32) {
    let vector = this_o_tile * 8u + this_part * 2u;
    var a = normalise_a(sums_a[r]);
    var b = normalise_b(sums_b[r]);
    if RELU {
        a = max(a, vec4f());
        b = max(b, vec4f());
    }
    if row_exists(r) {
        let at = row_out(r) + vector;
        real_out[at] = a;
        if (vector + 1u) * 4u < product.channels_out {
            real_out[at + 1u] = b;
        }
    }
}

fn residual_row(r: u32) {
    let vector = this_o_tile * 8u + this_part * 2u;
    if row_exists(r) {
        let at = row_out(r) + vector;
        real_out[at] = normalise_a(sums_a[r]) + residual[at];
        if (vector + 1u) * 4u < product.channels_out {
            real_out[at + 1u] = normalise_b(sums_b[r]) + residual[at + 1u];
        }
    }
}

// One timestep of four channels: their membrane and sums in, their spikes as plus in bits 0..3, minus in bits 4..7 out.
fn fire(membrane: ptr<function, vec4f>, y: vec4f, vector: u32, is_ternary: bool) -> u32 {
    let n = neuron();
    let h = charge(*membrane, y, n);
    let positive = fire_positive(h, n);
    let negative = fire_negative(h, n) & vec4<bool>(is_ternary);
    *membrane = reset(h, positive, negative, n);
    return nibble(positive, vector * 4u, product.channels_out) | (nibble(negative, vector * 4u, product.channels_out) << 4u);
}

fn fire_row(r: u32, is_ternary: bool) {
    let vector = this_o_tile * 8u + this_part * 2u;
    var a = membrane_a;
    var b = membrane_b;
    if r % STEP_BLOCK == 0u && this_block == 0u {
        a = vec4f(product.v_reset);
        b = vec4f(product.v_reset);
    }
    let of_a = fire(&a, normalise_a(sums_a[r]), vector, is_ternary);
    let of_b = fire(&b, normalise_b(sums_b[r]), vector + 1u, is_ternary);
    membrane_a = a;
    membrane_b = b;
    let shift = 8u * this_part;
    plus_words[r] |= ((of_a & 15u) | ((of_b & 15u) << 4u)) << shift;
    minus_words[r] |= ((of_a >> 4u) | (of_b & 240u)) << shift;
}

fn clear_row(r: u32) {
    plus_words[r] = 0u;
    minus_words[r] = 0u;
}

fn store_row(r: u32, is_ternary: bool) {
    if row_exists(r) {
        let at = row_out(r) + this_o_tile;
        spikes_out[at] = plus_words[r];
        if is_ternary {
            spikes_out[at + product.minus_plane] = minus_words[r];
        }
    }
}

fn fire_rows(is_ternary: bool) {
    membrane_a = membranes[2u * this_part];
    membrane_b = membranes[2u * this_part + 1u];
    fire_row(0u, is_ternary); fire_row(1u, is_ternary); fire_row(2u, is_ternary); fire_row(3u, is_ternary);
    fire_row(4u, is_ternary); fire_row(5u, is_ternary); fire_row(6u, is_ternary); fire_row(7u, is_ternary);
    fire_row(8u, is_ternary); fire_row(9u, is_ternary); fire_row(10u, is_ternary); fire_row(11u, is_ternary);
    fire_row(12u, is_ternary); fire_row(13u, is_ternary); fire_row(14u, is_ternary); fire_row(15u, is_ternary);
    membranes[2u * this_part] = membrane_a;
    membranes[2u * this_part + 1u] = membrane_b;
}

fn fire_block(block: u32, is_ternary: bool) {
    this_block = block;
    clear_row(0u); clear_row(1u); clear_row(2u); clear_row(3u);
    clear_row(4u); clear_row(5u); clear_row(6u); clear_row(7u);
    clear_row(8u); clear_row(9u); clear_row(10u); clear_row(11u);
    clear_row(12u); clear_row(13u); clear_row(14u); clear_row(15u);
    for (var part = 0u; part < parts(); part += 1u) {
        make(part);
        fire_rows(is_ternary);
    }
    store_row(0u, is_ternary); store_row(1u, is_ternary); store_row(2u, is_ternary); store_row(3u, is_ternary);
    store_row(4u, is_ternary); store_row(5u, is_ternary); store_row(6u, is_ternary); store_row(7u, is_ternary);
    store_row(8u, is_ternary); store_row(9u, is_ternary); store_row(10u, is_ternary); store_row(11u, is_ternary);
    store_row(12u, is_ternary); store_row(13u, is_ternary); store_row(14u, is_ternary); store_row(15u, is_ternary);
}

@compute @workgroup_size(8)
fn real(@builtin(subgroup_invocation_id) lane: u32, @builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u) {
    if !begin(lane, group, groups) {
        return;
    }
    for (var block = 0u; block < blocks(); block += 1u) {
        this_block = block;
        for (var part = 0u; part < parts(); part += 1u) {
            make(part);
            real_row(0u); real_row(1u); real_row(2u); real_row(3u);
            real_row(4u); real_row(5u); real_row(6u); real_row(7u);
            real_row(8u); real_row(9u); real_row(10u); real_row(11u);
            real_row(12u); real_row(13u); real_row(14u); real_row(15u);
        }
    }
}

@compute @workgroup_size(8)
fn residual_real(@builtin(subgroup_invocation_id) lane: u32, @builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u) {
    if !begin(lane, group, groups) {
        return;
    }
    for (var block = 0u; block < blocks(); block += 1u) {
        this_block = block;
        for (var part = 0u; part < parts(); part += 1u) {
            make(part);
            residual_row(0u); residual_row(1u); residual_row(2u); residual_row(3u);
            residual_row(4u); residual_row(5u); residual_row(6u); residual_row(7u);
            residual_row(8u); residual_row(9u); residual_row(10u); residual_row(11u);
            residual_row(12u); residual_row(13u); residual_row(14u); residual_row(15u);
        }
    }
}

@compute @workgroup_size(8)
fn spikes(@builtin(subgroup_invocation_id) lane: u32, @builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u) {
    if !begin(lane, group, groups) {
        return;
    }
    for (var block = 0u; block < blocks(); block += 1u) {
        fire_block(block, false);
    }
}

@compute @workgroup_size(8)
fn ternary(@builtin(subgroup_invocation_id) lane: u32, @builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u) {
    if !begin(lane, group, groups) {
        return;
    }
    for (var block = 0u; block < blocks(); block += 1u) {
        fire_block(block, true);
    }
}
