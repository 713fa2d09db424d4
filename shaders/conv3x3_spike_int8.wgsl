// conv3x3_spike_int8: y[t, b, p, o] = scale[o] * Σ_{tap, i} q[o, i, tap] s[t, b, p + tap, i] + shift[o], q int8 weights, s packed
// spikes, zeros outside the grid (pad 1, stride 1); the sum is exact. Then an epilogue.
//
// Grid: x, y row tiles (folded), z tiles of 32 output channels. Thread mapping and order of addition:
// lib/spike_product_int8.wgsl; rows of inputs: lib/conv3x3_rows.wgsl; batch norm, LIF over T, packing and residual:
// lib/product_epilogue.wgsl.
// Uses: conv3x3_rows, spike_product_int8, product_epilogue, product_parameters, neuron.

@group(0) @binding(0) var<storage, read> spikes_in: array<u32>;         // [T][B][H][W][words_in]
@group(0) @binding(1) var<storage, read> weights: array<vec4u>;         // [O/32][9 taps][words_in][32 i][32 o] bytes, zero padded
@group(0) @binding(2) var<storage, read> scale_shift: array<vec4f>;     // [O/4][scale, shift], O padded to 32
@group(0) @binding(3) var<storage, read> residual: array<vec4f>;        // [T][B][H][W][O/4]
@group(0) @binding(4) var<storage, read_write> real_out: array<vec4f>;  // [T][B][H][W][O/4]
@group(0) @binding(5) var<storage, read_write> spikes_out: array<u32>;  // [T][B][H][W][words] or [T][B][H][W][plus, minus][words]
@group(0) @binding(6) var<uniform> product: Product;

fn chunk_weight(chunk: u32, i: u32) -> vec4u {
    return weights[(this_o_tile * 9u * product.words_in + chunk) * 64u + i];
}
