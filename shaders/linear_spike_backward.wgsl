// linear_spike_backward: of y[t, n, o] = Σ_i W[o, i] s[t, n, i] with the gradient g of y:
//   weights  g_W[o, i] = Σ_{t, n} g[t, n, o] s[t, n, i]   additions only, in splits of the rows
//   combine  g_W = Σ of the splits
//   input    g_s[t, n, i] = Σ_o W[o, i] g[t, n, o]        for a window of outputs; windows after the first accumulate
//
// Grids, threads and order: weights lib/spike_gradient.wgsl; combine one vec4f a thread, splits ascending; input x, y tiles of
// 64 rows (folded), z tiles of 32 inputs, inside it lib/dense_product.wgsl, k = o.
// Uses: product_backward, spike_gradient, dense_product.

@group(0) @binding(0) var<storage, read> spikes_in: array<u32>;            // [T*B*N][words_in]
@group(0) @binding(1) var<storage, read> weights_in: array<vec4f>;         // [O/32][words_in][32 i][32 o], zero padded
@group(0) @binding(2) var<storage, read> gradient_in: array<vec4f>;        // [T*B*N][gradient_stride]
@group(0) @binding(3) var<storage, read> partials_in: array<vec4f>;        // [splits][O/32][words_in][32 i][32 o]
@group(0) @binding(4) var<storage, read_write> weights_out: array<vec4f>;  // [splits][O/32][words_in][32 i][32 o], combined without splits
@group(0) @binding(5) var<storage, read_write> real_out: array<vec4f>;     // [T*B*N][out_stride]
@group(0) @binding(6) var<uniform> product: ProductBackward;

var<private> this_tile: u32;   // of rows
var<private> this_i_word: u32; // of 32 inputs

fn chunks() -> u32 {
    return product.words_in;
}

fn chunk_spikes(row: u32, chunk: u32) -> u32 {
    return spikes_in[row * product.words_in + chunk];
}

fn row_vector(row: u32, chunk: u32, q: u32) -> vec4f {
    return gradient(this_tile * 64u + row, chunk * 8u + q);
}

fn chunk_weight(chunk: u32, i: u32) -> vec4f {
    return weights_in[(chunk * product.words_in + this_i_word) * 256u + i];
}

fn chunk_vectors(chunk: u32) -> u32 {
    return min(8u, (product.channels_out + 3u) / 4u - chunk * 8u);
}

@compute @workgroup_size(64)
fn weights(@builtin(local_invocation_index) thread: u32, @builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u) {
    let tile = group.x + group.y * groups.x;
    if tile >= product.tiles {
        return;
    }
    spike_gradient(thread, tile, group.z);
}

@compute @workgroup_size(64)
fn combine(@builtin(local_invocation_index) thread: u32, @builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u) {
    combine_partials(thread, group.x + group.y * groups.x);
}

@compute @workgroup_size(64)
fn input(@builtin(local_invocation_index) thread: u32, @builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u) {
    let tile = group.x + group.y * groups.x;
    if tile >= product.tiles {
        return;
    }
    this_tile = tile;
    this_i_word = product.out_word + group.z;
    var sums = dense_product(thread, (product.channels_out + 31u) / 32u);
    let vector = group.z * 8u + thread % 8u;
    for (var r = 0u; r < 8u; r += 1u) {
        let row = tile * 64u + thread / 8u * 8u + r;
        if row < product.rows && vector < product.out_stride {
            let at = row * product.out_stride + vector;
            real_out[at] = sums[r] + select(vec4f(), real_out[at], product.accumulate != 0u);
        }
    }
}
