// One workgroup's share of the weight gradient of a spike product: 2 chunks of 32 k × 32 outputs over one split of the rows,
// additions only.
//   sum[k][o] = Σ_row bit(row, k) ? gradient[row][o] : 0
// Grid: x, y chunk pairs (fastest) × tiles of 32 outputs, folded; z splits. Threads: 64 = 8 groups of 8 k × 8 groups of 4
// outputs; 64 rows at a time pass through workgroup memory.
// Order: rows ascending inside a split; a silent input adds +0.
// The kernel supplies
//   chunks() -> u32                    chunks of 32 k
//   chunk_spikes(row, chunk) -> u32    the chunk's 32 bits of a row below `product.rows`
// Uses: product_backward.

var<workgroup> gradient_tile: array<vec4f, 512>; // [64 rows][8 vec4f]
var<workgroup> spike_tile: array<u32, 128>;      // [2 chunks][64 rows]

fn selected(g: vec4u, spikes: u32, k: u32) -> vec4f {
    // All ones where the spike is there, zero where not: a selection, not a product.
    return bitcast<vec4f>(g & vec4u(0u - ((spikes >> k) & 1u)));
}

fn spike_gradient(thread: u32, tile: u32, split: u32) {
    var s0 = vec4f();
    var s1 = vec4f();
    var s2 = vec4f();
    var s3 = vec4f();
    var s4 = vec4f();
    var s5 = vec4f();
    var s6 = vec4f();
    var s7 = vec4f();
    let pairs = (chunks() + 1u) / 2u;
    let pair = tile % pairs;
    let o_tile = tile / pairs;
    let lane = thread % 8u;
    let half = thread / 32u;          // which of the pair's chunks
    let first_k = thread / 8u % 4u * 8u;
    let end = min(product.rows, (split + 1u) * product.split_rows);
    for (var first = split * product.split_rows; first < end; first += 64u) {
        workgroupBarrier();
        for (var e = thread; e < 512u; e += 64u) {
            gradient_tile[e] = gradient(first + e / 8u, o_tile * 8u + e % 8u);
        }
        // Rows past the end read a valid row; they are not added.
        let row = min(first + thread, product.rows - 1u);
        spike_tile[thread] = chunk_spikes(row, 2u * pair);
        spike_tile[64u + thread] = chunk_spikes(row, min(2u * pair + 1u, chunks() - 1u));
        workgroupBarrier();
        for (var r = 0u; r < min(64u, end - first); r += 1u) {
            let g = bitcast<vec4u>(gradient_tile[r * 8u + lane]);
            let spikes = spike_tile[half * 64u + r] >> first_k;
            s0 += selected(g, spikes, 0u);
            s1 += selected(g, spikes, 1u);
            s2 += selected(g, spikes, 2u);
            s3 += selected(g, spikes, 3u);
            s4 += selected(g, spikes, 4u);
            s5 += selected(g, spikes, 5u);
            s6 += selected(g, spikes, 6u);
            s7 += selected(g, spikes, 7u);
        }
    }
    let chunk = 2u * pair + half;
    if chunk < chunks() {
        let at = split * product.weights_len + (o_tile * chunks() + chunk) * 256u + first_k * 8u + lane;
        weights_out[at] = s0;
        weights_out[at + 8u] = s1;
        weights_out[at + 16u] = s2;
        weights_out[at + 24u] = s3;
        weights_out[at + 32u] = s4;
        weights_out[at + 40u] = s5;
        weights_out[at + 48u] = s6;
        weights_out[at + 56u] = s7;
    }
}
