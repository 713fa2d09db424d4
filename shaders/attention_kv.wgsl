// attention_kv: M = Kᵀ V of every timestep, image and head, the inner product of the order Q (Kᵀ V):
//   m[i, j] = Σ_n k[n, i] v[n, j], k >= 0 real, v in {-1, 0, 1}
// Additions only: v adds, subtracts or skips.
//
// Grid: x tiles of 32 i × 32 j, y head of the window, z timestep and image. 64 threads own 4 i × 4 j each; 32 tokens of K and
// V pass through workgroup memory at a time.
// Order: n ascending.
// Uses: head_slice.

@group(0) @binding(0) var<storage, read> k_in: array<f32>;           // [T*B][N][real_stride], the window's heads
@group(0) @binding(1) var<storage, read> v_in: array<u32>;           // [T*B][N][plus, minus][words], all heads
@group(0) @binding(2) var<storage, read_write> m_out: array<vec4f>;  // [T*B][heads][d/32 of j][32 (d/32) i][32 j], d rounded up to 32
@group(0) @binding(3) var<uniform> attention: Attention;

var<workgroup> k_tile: array<f32, 1024>;  // [32 n][32 i]
var<workgroup> plus_tile: array<u32, 32>;
var<workgroup> minus_tile: array<u32, 32>;

@compute @workgroup_size(64)
fn main(@builtin(local_invocation_index) thread: u32, @builtin(workgroup_id) group: vec3u) {
    let side = (attention.head_dim + 31u) / 32u;
    let i_tile = group.x % side;
    let j_tile = group.x / side;
    let row_group = thread / 8u; // 4 i
    let lane = thread % 8u;      // 4 j
    let s = slice(attention.first_head + group.y, j_tile * 32u);
    var m0 = vec4f();
    var m1 = vec4f();
    var m2 = vec4f();
    var m3 = vec4f();
    for (var first = 0u; first < attention.tokens; first += 32u) {
        workgroupBarrier();
        for (var e = thread; e < 1024u; e += 64u) {
            let n = first + e / 32u;
            let i = i_tile * 32u + e % 32u;
            var k = 0.0;
            if n < attention.tokens && i < attention.head_dim {
                k = k_in[(group.z * attention.tokens + n) * attention.real_stride + group.y * attention.head_dim + i];
            }
            k_tile[e] = k;
        }
        if thread < 32u {
            var plus = 0u;
            var minus = 0u;
            if first + thread < attention.tokens {
                let row = (group.z * attention.tokens + first + thread) * 2u * attention.words;
                plus = join(v_in[row + s.word], v_in[row + next_word(s)], s);
                minus = join(v_in[row + attention.words + s.word], v_in[row + attention.words + next_word(s)], s);
            }
            plus_tile[thread] = plus;
            minus_tile[thread] = minus;
        }
        workgroupBarrier();
        for (var n = 0u; n < min(32u, attention.tokens - first); n += 1u) {
            let plus = spread(plus_tile[n] >> (4u * lane));
            let minus = spread(minus_tile[n] >> (4u * lane));
            let at = n * 32u + row_group * 4u;
            m0 += signed_term(vec4f(k_tile[at]), plus, minus);
            m1 += signed_term(vec4f(k_tile[at + 1u]), plus, minus);
            m2 += signed_term(vec4f(k_tile[at + 2u]), plus, minus);
            m3 += signed_term(vec4f(k_tile[at + 3u]), plus, minus);
        }
    }
    let at = (((group.z * attention.heads + group.y) * side + j_tile) * side * 32u + i_tile * 32u + row_group * 4u) * 8u + lane;
    m_out[at] = m0;
    m_out[at + 8u] = m1;
    m_out[at + 16u] = m2;
    m_out[at + 24u] = m3;
}
