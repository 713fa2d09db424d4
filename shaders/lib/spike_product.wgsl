// One workgroup's share of (packed spikes) × (f32 weights): 64 local rows × 32 outputs, additions only.
//   sum[row][o] = Σ_k bit(row, k) ? weight[k][o] : 0
// Threads: 64 = 8 row groups × 8 output groups; a thread owns 8 rows × 4 outputs (one vec4f a row).
// Order: chunks of 32 k ascending, k ascending inside a chunk; a silent input adds +0.
// The kernel supplies
//   row_spikes(r, chunk) -> u32   32 input bits of this thread's row r (0..7)
//   chunk_weight(chunk, i) -> vec4f   entry i (0..255) of the chunk's [32 k][8 vec4f] weights
//   chunk_bits(chunk) -> u32      how many of the chunk's 32 k exist

const TILE_ROWS: u32 = 64u;
const THREAD_ROWS: u32 = 8u;
const THREADS: u32 = 64u;

var<workgroup> weight_tile: array<vec4f, 256>; // [32 k][8 vec4f]

fn masked(w: vec4u, spikes: u32, k: u32) -> vec4f {
    // All ones where the spike is there, zero where not: a selection, not a product.
    return bitcast<vec4f>(w & vec4u(0u - ((spikes >> k) & 1u)));
}

fn spike_product(thread: u32, chunks: u32) -> array<vec4f, 8> {
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
        for (var i = thread; i < 256u; i += THREADS) {
            weight_tile[i] = chunk_weight(chunk, i);
        }
        let r0 = row_spikes(0u, chunk);
        let r1 = row_spikes(1u, chunk);
        let r2 = row_spikes(2u, chunk);
        let r3 = row_spikes(3u, chunk);
        let r4 = row_spikes(4u, chunk);
        let r5 = row_spikes(5u, chunk);
        let r6 = row_spikes(6u, chunk);
        let r7 = row_spikes(7u, chunk);
        workgroupBarrier();
        let bits = chunk_bits(chunk);
        for (var k = 0u; k < bits; k += 1u) {
            let w = bitcast<vec4u>(weight_tile[k * 8u + lane]);
            s0 += masked(w, r0, k);
            s1 += masked(w, r1, k);
            s2 += masked(w, r2, k);
            s3 += masked(w, r3, k);
            s4 += masked(w, r4, k);
            s5 += masked(w, r5, k);
            s6 += masked(w, r6, k);
            s7 += masked(w, r7, k);
        }
    }
    return array<vec4f, 8>(s0, s1, s2, s3, s4, s5, s6, s7);
}
