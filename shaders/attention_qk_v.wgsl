// attention_qk_v: O = (Q Kᵀ) V of every timestep, image and head, in that order, no softmax, no scale:
//   a[n, m] = Σ_i q[n, i] k[m, i],   o[n, j] = Σ_m a[n, m] v[m, j],   q in {0, 1}, k >= 0 real, v in {-1, 0, 1}
// Additions only; the N × N scores never leave the workgroup.
//
// Grid: x tiles of 32 tokens × 32 j, y head of the window, z timestep and image. 64 threads own 4 tokens × 4 columns each, of
// the 32 × 32 scores and of the 32 × 32 outputs.
// Order: scores by i ascending, outputs by m ascending.
// Uses: head_slice.

@group(0) @binding(0) var<storage, read> q_in: array<u32>;        // [T*B][N][words], all heads
@group(0) @binding(1) var<storage, read> k_in: array<f32>;        // [T*B][N][real_stride], the window's heads
@group(0) @binding(2) var<storage, read> v_in: array<u32>;        // [T*B][N][plus, minus][words], all heads
@group(0) @binding(3) var<storage, read_write> o_out: array<f32>; // [T*B][N][real_stride], the window's heads
@group(0) @binding(4) var<uniform> attention: Attention;

var<workgroup> k_tile: array<f32, 1024>;      // [32 i][32 m]
var<workgroup> score_tile: array<vec4f, 256>; // [32 n][32 m]
var<workgroup> plus_tile: array<u32, 32>;
var<workgroup> minus_tile: array<u32, 32>;

fn q_bits(image: u32, n: u32, s: Slice) -> u32 {
    // Tokens past the end read a valid row; their sums are not stored.
    let row = (image * attention.tokens + min(n, attention.tokens - 1u)) * attention.words;
    return join(q_in[row + s.word], q_in[row + next_word(s)], s);
}

fn masked(k: vec4u, spikes: u32, i: u32) -> vec4f {
    return bitcast<vec4f>(k & vec4u(0u - ((spikes >> i) & 1u)));
}

@compute @workgroup_size(64)
fn main(@builtin(local_invocation_index) thread: u32, @builtin(workgroup_id) group: vec3u) {
    let side = (attention.head_dim + 31u) / 32u;
    let j_tile = group.x % side;
    let first_n = group.x / side * 32u + thread / 8u * 4u;
    let lane = thread % 8u;
    let head = attention.first_head + group.y;
    let image = group.z;
    let v_slice = slice(head, j_tile * 32u);
    var o0 = vec4f();
    var o1 = vec4f();
    var o2 = vec4f();
    var o3 = vec4f();
    for (var first_m = 0u; first_m < attention.tokens; first_m += 32u) {
        var a0 = vec4f();
        var a1 = vec4f();
        var a2 = vec4f();
        var a3 = vec4f();
        for (var first_i = 0u; first_i < attention.head_dim; first_i += 32u) {
            workgroupBarrier();
            for (var e = thread; e < 1024u; e += 64u) {
                // Consecutive threads read consecutive i of one token.
                let i = first_i + e % 32u;
                let m = first_m + e / 32u;
                var k = 0.0;
                if m < attention.tokens && i < attention.head_dim {
                    k = k_in[(image * attention.tokens + m) * attention.real_stride + group.y * attention.head_dim + i];
                }
                k_tile[e % 32u * 32u + e / 32u] = k;
            }
            let s = slice(head, first_i);
            let q0 = q_bits(image, first_n, s);
            let q1 = q_bits(image, first_n + 1u, s);
            let q2 = q_bits(image, first_n + 2u, s);
            let q3 = q_bits(image, first_n + 3u, s);
            workgroupBarrier();
            for (var i = 0u; i < min(32u, attention.head_dim - first_i); i += 1u) {
                let at = i * 32u + lane * 4u;
                let k = bitcast<vec4u>(vec4f(k_tile[at], k_tile[at + 1u], k_tile[at + 2u], k_tile[at + 3u]));
                a0 += masked(k, q0, i);
                a1 += masked(k, q1, i);
                a2 += masked(k, q2, i);
                a3 += masked(k, q3, i);
            }
        }
        let row = thread / 8u * 4u;
        score_tile[row * 8u + lane] = a0;
        score_tile[(row + 1u) * 8u + lane] = a1;
        score_tile[(row + 2u) * 8u + lane] = a2;
        score_tile[(row + 3u) * 8u + lane] = a3;
        if thread < 32u {
            var plus = 0u;
            var minus = 0u;
            if first_m + thread < attention.tokens {
                let at = (image * attention.tokens + first_m + thread) * 2u * attention.words;
                plus = join(v_in[at + v_slice.word], v_in[at + next_word(v_slice)], v_slice);
                minus = join(v_in[at + attention.words + v_slice.word], v_in[at + attention.words + next_word(v_slice)], v_slice);
            }
            plus_tile[thread] = plus;
            minus_tile[thread] = minus;
        }
        workgroupBarrier();
        for (var m = 0u; m < min(32u, attention.tokens - first_m); m += 1u) {
            let plus = spread(plus_tile[m] >> (4u * lane));
            let minus = spread(minus_tile[m] >> (4u * lane));
            o0 += signed_term(vec4f(score_tile[row * 8u + m / 4u][m % 4u]), plus, minus);
            o1 += signed_term(vec4f(score_tile[(row + 1u) * 8u + m / 4u][m % 4u]), plus, minus);
            o2 += signed_term(vec4f(score_tile[(row + 2u) * 8u + m / 4u][m % 4u]), plus, minus);
            o3 += signed_term(vec4f(score_tile[(row + 3u) * 8u + m / 4u][m % 4u]), plus, minus);
        }
        // The next round's first barrier keeps score_tile and the planes until every thread has read them.
    }
    var sums = array<vec4f, 4>(o0, o1, o2, o3);
    let j = j_tile * 32u + lane * 4u;
    for (var r = 0u; r < 4u; r += 1u) {
        if first_n + r < attention.tokens {
            let at = (image * attention.tokens + first_n + r) * attention.real_stride + group.y * attention.head_dim + j;
            for (var c = 0u; c < 4u; c += 1u) {
                if j + c < attention.head_dim {
                    o_out[at + c] = sums[r][c];
                }
            }
        }
    }
}
