// conv3x3_spike_backward: of y[t, b, p, o] = Σ_{tap, i} W[o, i, tap] s[t, b, p + tap, i] (pad 1, stride 1) with the gradient g
// of y, zeros outside the grid:
//   weights  g_W[o, i, tap] = Σ_{t, b, p} g[t, b, p, o] s[t, b, p + tap, i]   additions only, in splits of the rows
//   combine  g_W = Σ of the splits
//   input    g_s[t, b, q, i] = Σ_{o, tap} W[o, i, tap] g[t, b, q - tap, o]    for a window of outputs; windows after the first
//                                                                             accumulate
//
// Grids, threads and order: weights lib/spike_gradient.wgsl, a chunk of k one word of one tap; combine one vec4f a thread,
// splits ascending; input x, y tiles of 64 rows (folded), z tiles of 32 inputs, inside it lib/dense_product.wgsl, a chunk of k
// 32 outputs of one tap, taps innermost.
// Uses: product_backward, spike_gradient, dense_product.

@group(0) @binding(0) var<storage, read> spikes_in: array<u32>;            // [T*B][H][W][words_in]
@group(0) @binding(1) var<storage, read> weights_in: array<vec4f>;         // [O/32][9 taps][words_in][32 i][32 o], zero padded
@group(0) @binding(2) var<storage, read> gradient_in: array<vec4f>;        // [T*B][H][W][gradient_stride]
@group(0) @binding(3) var<storage, read> partials_in: array<vec4f>;        // [splits][O/32][9 taps][words_in][32 i][32 o]
@group(0) @binding(4) var<storage, read_write> weights_out: array<vec4f>;  // [splits][O/32][9 taps][words_in][32 i][32 o], combined without splits
@group(0) @binding(5) var<storage, read_write> real_out: array<vec4f>;     // [T*B][H][W][out_stride]
@group(0) @binding(6) var<uniform> product: ProductBackward;

var<private> this_tile: u32;   // of rows
var<private> this_i_word: u32; // of 32 inputs

fn chunks() -> u32 {
    return 9u * product.words_in;
}

fn chunk_spikes(row: u32, chunk: u32) -> u32 {
    let source = neighbour(row, chunk / product.words_in);
    return spikes_in[source.x * product.words_in + chunk % product.words_in] & (0u - source.y);
}

fn row_vector(row: u32, chunk: u32, q: u32) -> vec4f {
    // Outputs see their input at the opposite tap. Rows past the end are zeros already, wherever their neighbours lie.
    let to = this_tile * 64u + row;
    let source = neighbour(to, 8u - chunk % 9u);
    let there = (source.y == 1u) & (to < product.rows);
    return select(vec4f(), gradient(source.x, chunk / 9u * 8u + q), there);
}

fn chunk_weight(chunk: u32, i: u32) -> vec4f {
    return weights_in[(chunk * product.words_in + this_i_word) * 256u + i];
}

fn chunk_vectors(chunk: u32) -> u32 {
    return min(8u, (product.channels_out + 3u) / 4u - chunk / 9u * 8u);
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
    var sums = dense_product(thread, (product.channels_out + 31u) / 32u * 9u);
    let vector = group.z * 8u + thread % 8u;
    for (var r = 0u; r < 8u; r += 1u) {
        let row = tile * 64u + thread / 8u * 8u + r;
        if row < product.rows && vector < product.out_stride {
            let at = row * product.out_stride + vector;
            real_out[at] = sums[r] + select(vec4f(), real_out[at], product.accumulate != 0u);
        }
    }
}
