// linear_spike: y[t, n, o] = scale[o] * Σ_i W[o, i] s[t, n, i] + shift[o], s packed spikes; then an epilogue.
//
// Grid: x, y row tiles (folded), z tiles of 32 output channels. Thread mapping and order of addition:
// lib/spike_product.wgsl; batch norm, LIF over T, packing and residual: lib/product_epilogue.wgsl.
// Uses: spike_product, product_epilogue, product_parameters, neuron.

@group(0) @binding(0) var<storage, read> spikes_in: array<u32>;         // [T][B*N][words_in]
@group(0) @binding(1) var<storage, read> weights: array<vec4f>;         // [O/32][words_in][32 i][32 o], zero padded
@group(0) @binding(2) var<storage, read> scale_shift: array<vec4f>;     // [O/4][scale, shift], O padded to 32
@group(0) @binding(3) var<storage, read> residual: array<vec4f>;        // [T][B*N][O/4]
@group(0) @binding(4) var<storage, read_write> real_out: array<vec4f>;  // [T][B*N][O/4]
@group(0) @binding(5) var<storage, read_write> spikes_out: array<u32>;  // [T][B*N][words] or [T][B*N][plus, minus][words]
@group(0) @binding(6) var<uniform> product: Product;

fn chunks() -> u32 {
    return product.words_in;
}

fn chunk_bits(chunk: u32) -> u32 {
    return min(32u, product.channels_in - chunk * 32u);
}

fn chunk_weight(chunk: u32, i: u32) -> vec4f {
    return weights[(this_o_tile * product.words_in + chunk) * 256u + i];
}

fn row_spikes(r: u32, chunk: u32) -> u32 {
    // Rows past the end read a valid row; their sums are not stored.
    let token = min(row_token(this_thread / 8u, r), product.rows - 1u);
    let step = min(row_step(r), product.steps - 1u);
    return spikes_in[(step * product.rows + token) * product.words_in + chunk];
}
