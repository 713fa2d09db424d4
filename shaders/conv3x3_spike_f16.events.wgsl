// conv3x3_spike_f16: y[t, b, p, o] = scale[o] * Σ_{tap, i} W[o, i, tap] s[t, b, p + tap, i] + shift[o], W f16 weights, s packed
// spikes, zeros outside the grid (pad 1, stride 1); then an epilogue.
//
// Grid: x, y tiles of 128 / LANES tokens (folded), z tiles of 4 LANES (WIDE: 8 LANES) outputs. Thread mapping and order of addition:
// lib/spike_events.wgsl; rows of inputs: lib/conv3x3_rows.wgsl; weights: lib/halves.wgsl; batch norm, LIF over T, packing and residual:
// lib/event_epilogue.wgsl. For GPUs.
// Uses: conv3x3_rows, spike_events, halves, event_epilogue, product_parameters, neuron.

@group(0) @binding(0) var<storage, read> spikes_in: array<u32>;         // [T][B][H][W][words_in]
@group(0) @binding(1) var<storage, read> weights: array<vec2u>;         // [O/32][9 taps][words_in][32 i][32 o] halves, zero padded
@group(0) @binding(2) var<storage, read> scale_shift: array<vec4f>;     // [O/4][scale, shift], O padded to 32
@group(0) @binding(3) var<storage, read> residual: array<vec4f>;        // [T][B][H][W][O/4]
@group(0) @binding(4) var<storage, read_write> real_out: array<vec4f>;  // [T][B][H][W][O/4]
@group(0) @binding(5) var<storage, read_write> spikes_out: array<u32>;  // [T][B][H][W][words] or [T][B][H][W][plus, minus][words]
@group(0) @binding(6) var<uniform> product: Product;

alias Stored = vec2u;

fn unpacked(w: Stored) -> vec4f {
    return halves(w);
}
