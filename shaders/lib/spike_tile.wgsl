// One workgroup's share of (packed spikes) × (weights, f32 once unpacked), for GPUs: 128 local rows ×
// 64 outputs, additions only.
//   sum[row][o] = Σ_k bit(row, k) ? weight[k][o] : 0
// Threads: 128 = 16 row groups × 8 output groups; a thread owns 8 rows × 4 outputs of each of two tiles of 32, so that a spike's
// mask selects among eight weights and a load of weights serves 128 rows. Weights pass through workgroup memory; the next chunk's
// are on their way, 16 bytes a thread and load, while this one's are added.
// Order: chunks of 32 k ascending, k ascending inside a chunk; a silent input adds +0. The same bits as
// lib/spike_product.wgsl; of integers, while no sum exceeds 2^24, as lib/spike_product_int8.wgsl.
// The kernel supplies
//   row_spikes(r, chunk) -> u32   32 input bits of this thread's row r (0..7)
//   chunks() -> u32, chunk_bits(chunk) -> u32   chunks of 32 k, and how many of a chunk's 32 k exist
//   Stored, weights: array<Stored>   four weights of consecutive outputs as they are stored, [O/32][chunks][32 k][8]
//   unpacked(w: Stored) -> vec4f   the four as f32; done when they have arrived

var<workgroup> weight_tiles: array<vec4f, 512>; // [2 tiles][32 k][8 vec4f]

var<private> sums_a: array<vec4f, 8>; // of the first tile's outputs
var<private> sums_b: array<vec4f, 8>; // of the second's

fn masked(w: vec4u, mask: u32) -> vec4f {
    // All ones where the spike is there, zero where not: a selection, not a product.
    return bitcast<vec4f>(w & vec4u(mask));
}

fn add_row(r: u32, spikes: u32, k: u32, a: vec4u, b: vec4u) {
    let mask = 0u - ((spikes >> k) & 1u);
    sums_a[r] += masked(a, mask);
    sums_b[r] += masked(b, mask);
}

// Entry i (0..255) of a chunk's weights in this workgroup's tile 0 or 1 of 32 outputs.
fn chunk_weight(tile: u32, chunk: u32, i: u32) -> Stored {
    // A tile past the end reads the last one; its sums are not stored.
    let o_tile = min(this_o_tile * 2u + tile, (product.channels_out - 1u) / 32u);
    return weights[(o_tile * chunks() + chunk) * 256u + i];
}

// Leaves the sums of this thread's rows in `sums_a` and `sums_b`.
fn spike_product(thread: u32) {
    sums_a = array<vec4f, 8>();
    sums_b = array<vec4f, 8>();
    let lane = thread % 8u;
    let count = chunks();
    var next0 = chunk_weight(0u, 0u, thread);
    var next1 = chunk_weight(0u, 0u, thread + 128u);
    var next2 = chunk_weight(1u, 0u, thread);
    var next3 = chunk_weight(1u, 0u, thread + 128u);
    for (var chunk = 0u; chunk < count; chunk += 1u) {
        workgroupBarrier();
        weight_tiles[thread] = unpacked(next0);
        weight_tiles[thread + 128u] = unpacked(next1);
        weight_tiles[thread + 256u] = unpacked(next2);
        weight_tiles[thread + 384u] = unpacked(next3);
        workgroupBarrier();
        // The last chunk loads itself again.
        let next = min(chunk + 1u, count - 1u);
        next0 = chunk_weight(0u, next, thread);
        next1 = chunk_weight(0u, next, thread + 128u);
        next2 = chunk_weight(1u, next, thread);
        next3 = chunk_weight(1u, next, thread + 128u);
        let r0 = row_spikes(0u, chunk);
        let r1 = row_spikes(1u, chunk);
        let r2 = row_spikes(2u, chunk);
        let r3 = row_spikes(3u, chunk);
        let r4 = row_spikes(4u, chunk);
        let r5 = row_spikes(5u, chunk);
        let r6 = row_spikes(6u, chunk);
        let r7 = row_spikes(7u, chunk);
        let bits = chunk_bits(chunk);
        for (var k = 0u; k < bits; k += 1u) {
            let a = bitcast<vec4u>(weight_tiles[k * 8u + lane]);
            let b = bitcast<vec4u>(weight_tiles[256u + k * 8u + lane]);
            add_row(0u, r0, k, a, b);
            add_row(1u, r1, k, a, b);
            add_row(2u, r2, k, a, b);
            add_row(3u, r3, k, a, b);
            add_row(4u, r4, k, a, b);
            add_row(5u, r5, k, a, b);
            add_row(6u, r6, k, a, b);
            add_row(7u, r7, k, a, b);
        }
    }
}
