// One workgroup's share of (real rows) × (real weights): 64 rows × 32 outputs.
//   sum[row][c] = Σ_k row[k] w[c][k]
// Threads: 64 = 8 row groups × 8 output groups; a thread owns 8 rows × 4 outputs (one vec4f a row). Rows and weights pass
// through workgroup memory 32 k at a time, both with k innermost.
// Order: chunks of 32 k ascending, 4 k ascending inside a chunk; the four products of a `dot` in the driver's order.
// The kernel supplies
//   row_vector(row, chunk, q) -> vec4f   k = 4q..4q+3 of a chunk of row 0..63, zeros where there are none
//   chunk_weight(chunk, i) -> vec4f      entry i (0..255) of the chunk's [32 outputs][8 vec4f of k] weights
//   chunk_vectors(chunk) -> u32          how many of the chunk's 8 vec4f of k exist

var<workgroup> row_tile: array<vec4f, 512>;    // [64 rows][8 vec4f]
// [32 outputs][8 vec4f], the vec4f of output c at q ^ (c / 4): neighbouring threads read different banks.
var<workgroup> weight_tile: array<vec4f, 256>;

fn dots(x: vec4f, w0: vec4f, w1: vec4f, w2: vec4f, w3: vec4f) -> vec4f {
    return vec4f(dot(x, w0), dot(x, w1), dot(x, w2), dot(x, w3));
}

fn dense_product(thread: u32, chunks: u32) -> array<vec4f, 8> {
    var s0 = vec4f();
    var s1 = vec4f();
    var s2 = vec4f();
    var s3 = vec4f();
    var s4 = vec4f();
    var s5 = vec4f();
    var s6 = vec4f();
    var s7 = vec4f();
    let lane = thread % 8u;
    for (var chunk = 0u; chunk < chunks; chunk += 1u) {
        workgroupBarrier();
        for (var i = thread; i < 256u; i += 64u) {
            weight_tile[i ^ (i / 32u)] = chunk_weight(chunk, i);
        }
        for (var e = thread; e < 512u; e += 64u) {
            row_tile[e] = row_vector(e / 8u, chunk, e % 8u);
        }
        workgroupBarrier();
        for (var q = 0u; q < chunk_vectors(chunk); q += 1u) {
            let at = lane * 32u + (q ^ lane);
            let w0 = weight_tile[at];
            let w1 = weight_tile[at + 8u];
            let w2 = weight_tile[at + 16u];
            let w3 = weight_tile[at + 24u];
            let row = thread / 8u * 64u + q;
            s0 += dots(row_tile[row], w0, w1, w2, w3);
            s1 += dots(row_tile[row + 8u], w0, w1, w2, w3);
            s2 += dots(row_tile[row + 16u], w0, w1, w2, w3);
            s3 += dots(row_tile[row + 24u], w0, w1, w2, w3);
            s4 += dots(row_tile[row + 32u], w0, w1, w2, w3);
            s5 += dots(row_tile[row + 40u], w0, w1, w2, w3);
            s6 += dots(row_tile[row + 48u], w0, w1, w2, w3);
            s7 += dots(row_tile[row + 56u], w0, w1, w2, w3);
        }
    }
    return array<vec4f, 8>(s0, s1, s2, s3, s4, s5, s6, s7);
}
