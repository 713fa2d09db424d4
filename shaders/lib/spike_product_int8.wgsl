// One workgroup's share of (packed spikes) × (int8 weights): 64 local rows × 32 outputs, integer additions only.
//   sum[row][o] = Σ_k bit(row, k) ? weight[k][o] : 0, exact
// Threads: 64 = 8 row groups × 8 output groups; a thread owns 8 rows × 4 outputs.
// Order: none matters. Two sums share a word as 16-bit halves, so that an addition serves both: after at most RUN chunks of 32 k,
// none beyond 127 * 256 < 2^15, they are taken apart and added to 32-bit sums. 32 bits hold the sums of 2^24 inputs.
// The kernel supplies
//   row_spikes(r, chunk) -> u32   32 input bits of this thread's row r (0..7)
//   chunk_weight(chunk, i) -> vec4u   entry i (0..63) of the chunk's [32 k][2][4 words of 4 bytes] weights
//   chunk_bits(chunk) -> u32      how many of the chunk's 32 k exist

const TILE_ROWS: u32 = 64u;
const THREAD_ROWS: u32 = 8u;
const THREADS: u32 = 64u;
const RUN: u32 = 8u; // chunks of 32 k: 256 weights

var<workgroup> weight_tile: array<vec2u, 256>; // [32 k][8], four weights each

// The four weights of a word: the first two, plus the last two times 2^16.
fn halves(word: u32) -> vec2u {
    let w = unpack4xI8(word);
    return bitcast<vec2u>(w.xy + (w.zw << vec2u(16u)));
}

fn masked(w: vec2u, spikes: u32, k: u32) -> vec2u {
    // All ones where the spike is there, zero where not: a selection, not a product.
    return w & vec2u(0u - ((spikes >> k) & 1u));
}

// The four sums of `halves`.
fn widened(sums: vec2u) -> vec4i {
    let both = bitcast<vec2i>(sums);
    let low = (both << vec2u(16u)) >> vec2u(16u);
    return vec4i(low, (both - low) >> vec2u(16u));
}

fn spike_product(thread: u32, chunks: u32) -> array<vec4f, 8> {
    var s0 = vec4i();
    var s1 = vec4i();
    var s2 = vec4i();
    var s3 = vec4i();
    var s4 = vec4i();
    var s5 = vec4i();
    var s6 = vec4i();
    var s7 = vec4i();
    let lane = thread % 8u;
    for (var first = 0u; first < chunks; first += RUN) {
        var h0 = vec2u();
        var h1 = vec2u();
        var h2 = vec2u();
        var h3 = vec2u();
        var h4 = vec2u();
        var h5 = vec2u();
        var h6 = vec2u();
        var h7 = vec2u();
        let end = min(first + RUN, chunks);
        for (var chunk = first; chunk < end; chunk += 1u) {
            workgroupBarrier();
            let words = chunk_weight(chunk, thread);
            weight_tile[4u * thread] = halves(words.x);
            weight_tile[4u * thread + 1u] = halves(words.y);
            weight_tile[4u * thread + 2u] = halves(words.z);
            weight_tile[4u * thread + 3u] = halves(words.w);
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
                let w = weight_tile[k * 8u + lane];
                h0 += masked(w, r0, k);
                h1 += masked(w, r1, k);
                h2 += masked(w, r2, k);
                h3 += masked(w, r3, k);
                h4 += masked(w, r4, k);
                h5 += masked(w, r5, k);
                h6 += masked(w, r6, k);
                h7 += masked(w, r7, k);
            }
        }
        s0 += widened(h0);
        s1 += widened(h1);
        s2 += widened(h2);
        s3 += widened(h3);
        s4 += widened(h4);
        s5 += widened(h5);
        s6 += widened(h6);
        s7 += widened(h7);
    }
    return array<vec4f, 8>(
        vec4f(s0), vec4f(s1), vec4f(s2), vec4f(s3), vec4f(s4), vec4f(s5), vec4f(s6), vec4f(s7),
    );
}
