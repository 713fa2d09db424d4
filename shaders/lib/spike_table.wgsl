// One subgroup's share of (packed spikes) × (weights, f32 once unpacked), for software drivers: 128 local
// rows × 8 outputs, additions only.
//   sum[row][o] = Σ_k bit(row, k) ? weight[k][o] : 0
// Three inputs have eight sums of their weights. Each lane of the subgroup holds one of them, and a row picks its own by a
// shuffle: on a processor that is one instruction for eight lanes, where every load is a loop over them. So weights are loaded
// once for 128 rows, and nothing passes through workgroup memory.
// Threads: 8, one subgroup of at least eight invocations; a thread owns 16 rows × 8 outputs (two vec4f a row). What is done for
// each row is written out: an array that a variable indexes lies in memory.
// Order: chunks of 32 k ascending, each in halves of 16: k = (0 1 2) (3 4 5) .. (12 13 14) (15). The weights of a triple are added
// to each other, ascending, and their sum to the row's; a silent input adds +0.
// The kernel supplies
//   row_spikes(r, chunk) -> u32   32 input bits of this thread's row r (0..15)
//   chunks() -> u32               chunks of 32 k
//   Stored, weights: array<Stored>   four weights of consecutive outputs as they are stored, [O/32][chunks][32 k][8]
//   unpacked(w: Stored) -> vec4f   the four as f32

struct Tables {
    a: array<vec4f, 6>, // of outputs 0..3
    b: array<vec4f, 6>, // of outputs 4..7
}

var<private> this_lane: u32;
var<private> this_part: u32;             // which 8 of the 32 outputs
var<private> spike_bits: array<u32, 16>; // of the chunk, those not added yet lowest
var<private> sums_a: array<vec4f, 16>;   // of outputs 0..3
var<private> sums_b: array<vec4f, 16>;   // of outputs 4..7

// The weights of k (0..15), which lane k % 8 of one of two registers holds.
fn of_input(low: vec4f, high: vec4f, k: u32) -> vec4f {
    return subgroupShuffle(select(low, high, k >= 8u), k % 8u);
}

fn term(low: vec4f, high: vec4f, k: u32, bit: u32) -> vec4f {
    return select(vec4f(), of_input(low, high, k), ((this_lane >> bit) & 1u) != 0u);
}

// This lane's of the eight sums of the weights of k, k + 1 and k + 2.
fn triple(low: vec4f, high: vec4f, k: u32) -> vec4f {
    return term(low, high, k, 0u) + term(low, high, k + 1u, 1u) + term(low, high, k + 2u, 2u);
}

fn tables(low: vec4f, high: vec4f) -> array<vec4f, 6> {
    return array<vec4f, 6>(
        triple(low, high, 0u), triple(low, high, 3u), triple(low, high, 6u),
        triple(low, high, 9u), triple(low, high, 12u), term(low, high, 15u, 0u),
    );
}

fn add_triple(r: u32, t: Tables, i: u32) {
    let spikes = (spike_bits[r] >> (3u * i)) & 7u;
    sums_a[r] += subgroupShuffle(t.a[i], spikes);
    sums_b[r] += subgroupShuffle(t.b[i], spikes);
}

fn add_row(r: u32, t: Tables) {
    add_triple(r, t, 0u);
    add_triple(r, t, 1u);
    add_triple(r, t, 2u);
    add_triple(r, t, 3u);
    add_triple(r, t, 4u);
    let spike = (spike_bits[r] >> 15u) & 1u;
    sums_a[r] += subgroupShuffle(t.a[5], spike);
    sums_b[r] += subgroupShuffle(t.b[5], spike);
    spike_bits[r] >>= 16u;
}

fn begin_row(r: u32) {
    sums_a[r] = vec4f();
    sums_b[r] = vec4f();
}

fn load_row(r: u32, chunk: u32) {
    spike_bits[r] = row_spikes(r, chunk);
}

// Entry i (0..255) of the chunk's weights.
fn chunk_weight(chunk: u32, i: u32) -> vec4f {
    return unpacked(weights[(this_o_tile * chunks() + chunk) * 256u + i]);
}

// Leaves the sums of this thread's rows in `sums_a` and `sums_b`.
fn spike_product() {
    begin_row(0u); begin_row(1u); begin_row(2u); begin_row(3u);
    begin_row(4u); begin_row(5u); begin_row(6u); begin_row(7u);
    begin_row(8u); begin_row(9u); begin_row(10u); begin_row(11u);
    begin_row(12u); begin_row(13u); begin_row(14u); begin_row(15u);
    let count = subgroupBroadcastFirst(chunks());
    for (var chunk = 0u; chunk < count; chunk += 1u) {
        load_row(0u, chunk); load_row(1u, chunk); load_row(2u, chunk); load_row(3u, chunk);
        load_row(4u, chunk); load_row(5u, chunk); load_row(6u, chunk); load_row(7u, chunk);
        load_row(8u, chunk); load_row(9u, chunk); load_row(10u, chunk); load_row(11u, chunk);
        load_row(12u, chunk); load_row(13u, chunk); load_row(14u, chunk); load_row(15u, chunk);
        for (var half = 0u; half < 2u; half += 1u) {
            let i = (half * 16u + this_lane) * 8u + this_part * 2u;
            let t = Tables(
                tables(chunk_weight(chunk, i), chunk_weight(chunk, i + 64u)),
                tables(chunk_weight(chunk, i + 1u), chunk_weight(chunk, i + 65u)),
            );
            add_row(0u, t); add_row(1u, t); add_row(2u, t); add_row(3u, t);
            add_row(4u, t); add_row(5u, t); add_row(6u, t); add_row(7u, t);
            add_row(8u, t); add_row(9u, t); add_row(10u, t); add_row(11u, t);
            add_row(12u, t); add_row(13u, t); add_row(14u, t); add_row(15u, t);
        }
    }
}
