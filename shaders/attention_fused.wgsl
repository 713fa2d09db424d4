// attention_fused: O = Q (Kᵀ V) of every timestep, image and head, both products in one kernel, for heads of up to 64 channels:
//   m[i, j] = Σ_n k[n, i] v[n, j], k >= 0 real, v in {-1, 0, 1}
//   o[n, j] = Σ_i q[n, i] m[i, j], q in {0, 1}
// Additions only: v adds, subtracts or skips, q adds or skips.
//
// Grid: x groups of heads of the window (one where heads are large, several where they are small), z timestep and image.
// BLOCKS × BLOCKS threads. First each owns 4 i × 4 j of one head's M, over all tokens, and leaves them in workgroup memory; then
// all stride over the heads' O, four tokens × 4 j at a time. M is never written to memory that outlives the workgroup.
// Order: n ascending, then i ascending; a silent input adds +0. The same bits as attention_kv and attention_q_kv.
// Uses: head_slice.

override BLOCKS: u32 = 8u; // blocks of four channels that a side of M has at most: 8 or 16

@group(0) @binding(0) var<storage, read> q_in: array<u32>;         // [T*B][N][words], all heads
@group(0) @binding(1) var<storage, read> k_in: array<f32>;         // [T*B][N][real_stride], the window's heads
@group(0) @binding(2) var<storage, read> v_in: array<u32>;         // [T*B][N][plus, minus][words], all heads
@group(0) @binding(3) var<storage, read_write> o_out: array<f32>;  // [T*B][N][real_stride], the window's heads
@group(0) @binding(4) var<uniform> attention: Attention;

var<workgroup> m: array<vec4f, 4u * BLOCKS * BLOCKS>; // [heads of this workgroup][4 side i][side vec4f of j]

// Blocks of four channels of a head.
fn side() -> u32 {
    return (attention.head_dim + 3u) / 4u;
}

// Four channels of the bits from channel `first` of the head on.
fn v_bits(row: u32, s: Slice) -> vec4u {
    return spread(join(v_in[row + s.word], v_in[row + next_word(s)], s));
}

// Of the same i for four tokens: a spike selects m, or adds +0.
fn masked(value: vec4u, spikes: u32, i: u32) -> vec4f {
    return bitcast<vec4f>(value & vec4u(0u - ((spikes >> i) & 1u)));
}

// 32 bits of the query of a token; one past the end reads the last, whose sums are not stored.
fn q_bits(token: u32, image: u32, s: Slice) -> u32 {
    let row = (image * attention.tokens + min(token, attention.tokens - 1u)) * attention.words;
    return join(q_in[row + s.word], q_in[row + next_word(s)], s);
}

fn store(token: u32, image: u32, head: u32, j: u32, sum: vec4f) {
    if token < attention.tokens {
        let at = (image * attention.tokens + token) * attention.real_stride + head * attention.head_dim + j;
        for (var c = 0u; c < 4u; c += 1u) {
            if j + c < attention.head_dim {
                o_out[at + c] = sum[c];
            }
        }
    }
}

// Rows 4 i0 .. 4 i0 + 3 and columns 4 j0 .. 4 j0 + 3 of the head's M, its rows from `at` on. Rows past the end of the head repeat
// its last and are never read; columns past its end are zero.
fn sum_keys_values(head: u32, image: u32, i0: u32, j0: u32, at: u32) {
    let s = slice(attention.first_head + head, 4u * j0);
    let i = min(vec4u(4u * i0) + vec4u(0u, 1u, 2u, 3u), vec4u(attention.head_dim - 1u));
    var m0 = vec4f();
    var m1 = vec4f();
    var m2 = vec4f();
    var m3 = vec4f();
    for (var n = 0u; n < attention.tokens; n += 1u) {
        let token = image * attention.tokens + n;
        let row = token * 2u * attention.words;
        let plus = v_bits(row, s);
        let minus = v_bits(row + attention.words, s);
        let k = token * attention.real_stride + head * attention.head_dim;
        m0 += signed_term(vec4f(k_in[k + i.x]), plus, minus);
        m1 += signed_term(vec4f(k_in[k + i.y]), plus, minus);
        m2 += signed_term(vec4f(k_in[k + i.z]), plus, minus);
        m3 += signed_term(vec4f(k_in[k + i.w]), plus, minus);
    }
    m[at] = m0;
    m[at + side()] = m1;
    m[at + 2u * side()] = m2;
    m[at + 3u * side()] = m3;
}

// Columns 4 j0 .. 4 j0 + 3 of O of four tokens.
fn sum_queries(head: u32, image: u32, first: u32, j0: u32, base: u32) {
    var o0 = vec4f();
    var o1 = vec4f();
    var o2 = vec4f();
    var o3 = vec4f();
    for (var start = 0u; start < attention.head_dim; start += 32u) {
        let s = slice(attention.first_head + head, start);
        let q0 = q_bits(first, image, s);
        let q1 = q_bits(first + 1u, image, s);
        let q2 = q_bits(first + 2u, image, s);
        let q3 = q_bits(first + 3u, image, s);
        let end = min(32u, attention.head_dim - start);
        for (var i = 0u; i < end; i += 1u) {
            let of_i = bitcast<vec4u>(m[base + (start + i) * side() + j0]);
            o0 += masked(of_i, q0, i);
            o1 += masked(of_i, q1, i);
            o2 += masked(of_i, q2, i);
            o3 += masked(of_i, q3, i);
        }
    }
    store(first, image, head, 4u * j0, o0);
    store(first + 1u, image, head, 4u * j0, o1);
    store(first + 2u, image, head, 4u * j0, o2);
    store(first + 3u, image, head, 4u * j0, o3);
}

@compute @workgroup_size(BLOCKS * BLOCKS)
fn main(@builtin(local_invocation_index) thread: u32, @builtin(workgroup_id) group: vec3u) {
    let threads = BLOCKS * BLOCKS;
    let blocks = side() * side();
    let most = max(1u, threads / blocks);
    let first_head = group.x * most;
    let heads = min(most, attention.heads - first_head);
    if thread < heads * blocks {
        let block = thread % blocks;
        let i0 = block / side();
        let j0 = block % side();
        let at = thread / blocks * 4u * blocks + i0 * 4u * side() + j0;
        sum_keys_values(first_head + thread / blocks, group.z, i0, j0, at);
    }
    workgroupBarrier();
    let fours = (attention.tokens + 3u) / 4u;
    for (var part = thread; part < heads * fours * side(); part += threads) {
        let of_head = part % (fours * side());
        let head = part / (fours * side());
        sum_queries(first_head + head, group.z, of_head / side() * 4u, of_head % side(), head * 4u * blocks);
    }
}
