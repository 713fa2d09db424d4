// attention_kv: M = Kᵀ V of every timestep, image and head, the inner product of the order Q (Kᵀ V):
//   m[i, j] = Σ_n k[n, i] v[n, j], k >= 0 real, v in {-1, 0, 1}
// Additions only: v adds, subtracts or skips. For software drivers whose subgroups have eight invocations or more: nothing passes
// through workgroup memory, whose every access is a loop over the lanes there.
//
// Grid: x tiles of 32 i × 32 j, y head of the window, z timestep and image. 8 threads, one subgroup, own 4 i × 32 j each. Each lane
// loads one token's V of eight, which a shuffle hands to all.
// Order: n ascending.
// Uses: head_slice.

@group(0) @binding(0) var<storage, read> k_in: array<f32>;           // [T*B][N][real_stride], the window's heads
@group(0) @binding(1) var<storage, read> v_in: array<u32>;           // [T*B][N][plus, minus][words], all heads
@group(0) @binding(2) var<storage, read_write> m_out: array<vec4f>;  // [T*B][heads][d/32 of j][32 (d/32) i][32 j], d rounded up to 32
@group(0) @binding(3) var<uniform> attention: Attention;

var<private> sums: array<vec4f, 32>; // [4 i][8 vec4f of j]

// One token's terms of four j. Written out for each: an array that a variable indexes lies in memory.
fn add_four(j: u32, k: vec4f, plus_word: u32, minus_word: u32) {
    let plus = spread(plus_word >> (4u * j));
    let minus = spread(minus_word >> (4u * j));
    sums[j] += signed_term(vec4f(k.x), plus, minus);
    sums[8u + j] += signed_term(vec4f(k.y), plus, minus);
    sums[16u + j] += signed_term(vec4f(k.z), plus, minus);
    sums[24u + j] += signed_term(vec4f(k.w), plus, minus);
}

fn add_token(k: vec4f, plus: u32, minus: u32) {
    add_four(0u, k, plus, minus);
    add_four(1u, k, plus, minus);
    add_four(2u, k, plus, minus);
    add_four(3u, k, plus, minus);
    add_four(4u, k, plus, minus);
    add_four(5u, k, plus, minus);
    add_four(6u, k, plus, minus);
    add_four(7u, k, plus, minus);
}

fn store_row(i: u32, first: u32) {
    m_out[first + 8u * i + 0u] = sums[8u * i + 0u];
    m_out[first + 8u * i + 1u] = sums[8u * i + 1u];
    m_out[first + 8u * i + 2u] = sums[8u * i + 2u];
    m_out[first + 8u * i + 3u] = sums[8u * i + 3u];
    m_out[first + 8u * i + 4u] = sums[8u * i + 4u];
    m_out[first + 8u * i + 5u] = sums[8u * i + 5u];
    m_out[first + 8u * i + 6u] = sums[8u * i + 6u];
    m_out[first + 8u * i + 7u] = sums[8u * i + 7u];
}

// Four channels of the token's K from channel i of the head on, zero past its end.
fn keys(row: u32, i: u32) -> vec4f {
    let at = row + i;
    let last = row + attention.head_dim - 1u;
    let k = vec4f(k_in[min(at, last)], k_in[min(at + 1u, last)], k_in[min(at + 2u, last)], k_in[min(at + 3u, last)]);
    return select(vec4f(), k, vec4u(i) + vec4u(0u, 1u, 2u, 3u) < vec4u(attention.head_dim));
}

@compute @workgroup_size(8)
fn main(@builtin(subgroup_invocation_id) lane: u32, @builtin(workgroup_id) group: vec3u) {
    let side = (attention.head_dim + 31u) / 32u;
    let i_tile = group.x % side;
    let j_tile = group.x / side;
    let i = i_tile * 32u + 4u * lane;
    let s = slice(attention.first_head + group.y, j_tile * 32u);
    sums = array<vec4f, 32>();
    // Through the subgroup: lavapipe makes a shader anew, at every dispatch, for the value of each bound that it finds in the
    // uniform.
    let tokens = subgroupBroadcastFirst(attention.tokens);
    for (var first = 0u; first < tokens; first += 8u) {
        // Tokens past the end read the last one's; their V is masked away.
        let row = (group.z * tokens + min(first + lane, tokens - 1u)) * 2u * attention.words;
        let exists = select(0u, 0xffffffffu, first + lane < tokens);
        let plus = exists & join(v_in[row + s.word], v_in[row + next_word(s)], s);
        let minus = exists & join(v_in[row + attention.words + s.word], v_in[row + attention.words + next_word(s)], s);
        for (var n = 0u; n < 8u; n += 2u) {
            let base = group.z * tokens;
            let head = group.y * attention.head_dim;
            let a = keys((base + min(first + n, tokens - 1u)) * attention.real_stride + head, i);
            let b = keys((base + min(first + n + 1u, tokens - 1u)) * attention.real_stride + head, i);
            add_token(a, subgroupShuffle(plus, n), subgroupShuffle(minus, n));
            add_token(b, subgroupShuffle(plus, n + 1u), subgroupShuffle(minus, n + 1u));
        }
    }
    let at = (((group.z * attention.heads + group.y) * side + j_tile) * side * 32u + i) * 8u;
    store_row(0u, at);
    store_row(1u, at);
    store_row(2u, at);
    store_row(3u, at);
}
