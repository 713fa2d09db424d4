// conv3x3_real_backward: of y[s, b, p, o] = Σ_{tap, i} W[o, i, tap] x[s, b, p + tap, i] (pad 1, stride 1) for real x with the
// gradient g of y, zeros outside the grid:
//   weights  g_W[o, i, tap] = Σ_{s, b, p} g[s, b, p, o] x[s, b, p + tap, i]   in splits of the rows
//   combine  g_W = Σ of the splits
// The input is the image, which needs no gradient. Where g has T timesteps and x one, that one stands for all.
//
// Grids: weights x, y chunks of 32 k (fastest) × tiles of 32 outputs, folded, z splits, k = tap * C_in + i; combine one vec4f a
// thread. In `weights` 64 threads own 4 k × 4 outputs each; 32 rows at a time pass through workgroup memory.
// Order: rows ascending inside a split; splits ascending.
// Uses: product_backward.

@group(0) @binding(0) var<storage, read> x_in: array<f32>;                 // [S][B][H][W][in_stride]
@group(0) @binding(1) var<storage, read> gradient_in: array<vec4f>;        // [S][B][H][W][gradient_stride]
@group(0) @binding(2) var<storage, read> partials_in: array<vec4f>;        // [splits][O/32][K/32][32 k][32 o], K = 9 * C_in zero padded
@group(0) @binding(3) var<storage, read_write> weights_out: array<vec4f>;  // [splits][O/32][K/32][32 k][32 o], combined without splits
@group(0) @binding(4) var<uniform> product: ProductBackward;

var<workgroup> x_tile: array<f32, 1024>;         // [32 rows][32 k]
var<workgroup> gradient_tile: array<vec4f, 256>; // [32 rows][8 vec4f]

// Channel i of the pixel at the row's tap, zero outside the grid and past the end.
fn pixel(row: u32, tap: u32, i: u32) -> f32 {
    let there = (row < product.rows) & (tap < 9u);
    let source = neighbour(select(0u, row % product.in_rows, there), select(4u, tap, there));
    return select(0.0, x_in[source.x * product.in_stride + i], there & (source.y == 1u));
}

@compute @workgroup_size(64)
fn weights(@builtin(local_invocation_index) thread: u32, @builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u) {
    let tile = group.x + group.y * groups.x;
    if tile >= product.tiles {
        return;
    }
    let chunks = (9u * product.channels_in + 31u) / 32u;
    let chunk = tile % chunks;
    let o_tile = tile / chunks;
    let lane = thread % 8u;
    let first_k = thread / 8u * 4u;
    // What this thread loads is one k of every other row.
    let load_k = chunk * 32u + thread % 32u;
    let tap = load_k / product.channels_in;
    let i = load_k % product.channels_in;
    var s0 = vec4f();
    var s1 = vec4f();
    var s2 = vec4f();
    var s3 = vec4f();
    let end = min(product.rows, (group.z + 1u) * product.split_rows);
    for (var first = group.z * product.split_rows; first < end; first += 32u) {
        workgroupBarrier();
        for (var e = thread; e < 256u; e += 64u) {
            gradient_tile[e] = gradient(first + e / 8u, o_tile * 8u + e % 8u);
        }
        for (var e = thread; e < 1024u; e += 64u) {
            x_tile[e] = pixel(first + e / 32u, tap, i);
        }
        workgroupBarrier();
        for (var r = 0u; r < min(32u, end - first); r += 1u) {
            let g = gradient_tile[r * 8u + lane];
            let at = r * 32u + first_k;
            s0 += x_tile[at] * g;
            s1 += x_tile[at + 1u] * g;
            s2 += x_tile[at + 2u] * g;
            s3 += x_tile[at + 3u] * g;
        }
    }
    let at = group.z * product.weights_len + (o_tile * chunks + chunk) * 256u + first_k * 8u + lane;
    weights_out[at] = s0;
    weights_out[at + 8u] = s1;
    weights_out[at + 16u] = s2;
    weights_out[at + 24u] = s3;
}

@compute @workgroup_size(64)
fn combine(@builtin(local_invocation_index) thread: u32, @builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u) {
    combine_partials(thread, group.x + group.y * groups.x);
}
