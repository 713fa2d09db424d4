// attention_kv_backward: of M = Kᵀ V of every timestep, image and head, with the gradient dM of M:
//   keys    dK = V dMᵀ:  dk[n, i] = Σ_j v[n, j] dm[i, j] where k[n, i] > 0, else 0, v in {-1, 0, 1}   additions only
//   values  dV = K dM:   dv[n, j] = Σ_i k[n, i] dm[i, j]                                              a dense product
// K is the output of a ReLU, whose mask is applied here: dK is the gradient of what went into it.
//
// Grid: x tiles of 64 tokens × 32 i (or j), y head of the window, z timestep and image. 64 threads own 8 tokens × 4 i (or j)
// each; dM passes through workgroup memory 32 × 32 at a time. values: lib/dense_product.wgsl.
// Order: keys j ascending, values i ascending.
// Uses: head_slice, dense_product.

@group(0) @binding(0) var<storage, read> k_in: array<f32>;          // [T*B][N][real_stride], the window's heads
@group(0) @binding(1) var<storage, read> v_in: array<u32>;          // [T*B][N][plus, minus][words], all heads
@group(0) @binding(2) var<storage, read> dm_in: array<f32>;         // [T*B][heads][d/32 of j][32 (d/32) i][32 j], d rounded up to 32
@group(0) @binding(3) var<storage, read_write> dk_out: array<f32>;  // [T*B][N][real_stride], the window's heads
@group(0) @binding(4) var<storage, read_write> dv_out: array<f32>;  // [T*B][N][all_stride], all heads
@group(0) @binding(5) var<uniform> attention: Attention;

// [32 j][32 i], lines one longer: threads that store neighbouring j write different banks.
var<workgroup> product_tile: array<f32, 1056>;

var<private> this_group: vec3u;

fn side() -> u32 {
    return (attention.head_dim + 31u) / 32u;
}

// Where the head's dM begins.
fn head_product(group: vec3u) -> u32 {
    return (group.z * attention.heads + group.y) * side() * side() * 1024u;
}

// The 32 plus and minus bits of a token of V; a token past the end reads a valid row, whose sums are not stored.
fn value_bits(group: vec3u, n: u32, s: Slice) -> vec2u {
    let row = (group.z * attention.tokens + min(n, attention.tokens - 1u)) * 2u * attention.words;
    return vec2u(
        join(v_in[row + s.word], v_in[row + next_word(s)], s),
        join(v_in[row + attention.words + s.word], v_in[row + attention.words + next_word(s)], s),
    );
}

// value, -value or 0 as bit j of the token's ternary spikes is 1, -1 or 0.
fn term(value: vec4f, bits: vec2u, j: u32) -> vec4f {
    let masks = vec2u(0u) - ((bits >> vec2u(j)) & vec2u(1u));
    return signed_term(value, vec4u(masks.x), vec4u(masks.y));
}

@compute @workgroup_size(64)
fn keys(@builtin(local_invocation_index) thread: u32, @builtin(workgroup_id) group: vec3u) {
    let i_tile = group.x % side();
    let first_n = group.x / side() * 64u + thread / 8u * 8u;
    let lane = thread % 8u; // 4 i
    var s0 = vec4f();
    var s1 = vec4f();
    var s2 = vec4f();
    var s3 = vec4f();
    var s4 = vec4f();
    var s5 = vec4f();
    var s6 = vec4f();
    var s7 = vec4f();
    for (var j_tile = 0u; j_tile < side(); j_tile += 1u) {
        workgroupBarrier();
        let from_tile = head_product(group) + (j_tile * side() + i_tile) * 1024u;
        for (var e = thread; e < 1024u; e += 64u) {
            product_tile[e % 32u * 33u + e / 32u] = dm_in[from_tile + e];
        }
        let s = slice(attention.first_head + group.y, j_tile * 32u);
        let v0 = value_bits(group, first_n, s);
        let v1 = value_bits(group, first_n + 1u, s);
        let v2 = value_bits(group, first_n + 2u, s);
        let v3 = value_bits(group, first_n + 3u, s);
        let v4 = value_bits(group, first_n + 4u, s);
        let v5 = value_bits(group, first_n + 5u, s);
        let v6 = value_bits(group, first_n + 6u, s);
        let v7 = value_bits(group, first_n + 7u, s);
        workgroupBarrier();
        for (var j = 0u; j < min(32u, attention.head_dim - j_tile * 32u); j += 1u) {
            let at = j * 33u + lane * 4u;
            let m = vec4f(product_tile[at], product_tile[at + 1u], product_tile[at + 2u], product_tile[at + 3u]);
            s0 += term(m, v0, j);
            s1 += term(m, v1, j);
            s2 += term(m, v2, j);
            s3 += term(m, v3, j);
            s4 += term(m, v4, j);
            s5 += term(m, v5, j);
            s6 += term(m, v6, j);
            s7 += term(m, v7, j);
        }
    }
    var sums = array<vec4f, 8>(s0, s1, s2, s3, s4, s5, s6, s7);
    let i = i_tile * 32u + lane * 4u;
    for (var r = 0u; r < 8u; r += 1u) {
        let n = first_n + r;
        if n < attention.tokens {
            let at = (group.z * attention.tokens + n) * attention.real_stride + group.y * attention.head_dim + i;
            for (var c = 0u; c < 4u; c += 1u) {
                if i + c < attention.head_dim {
                    dk_out[at + c] = select(0.0, sums[r][c], k_in[at + c] > 0.0);
                }
            }
        }
    }
}

fn key(first: u32, i: u32, there: bool) -> f32 {
    // A channel past the head's end reads the last and is masked away.
    return select(0.0, k_in[first + min(i, attention.head_dim - 1u)], there & (i < attention.head_dim));
}

fn row_vector(row: u32, chunk: u32, q: u32) -> vec4f {
    let n = this_group.x / side() * 64u + row;
    let there = n < attention.tokens;
    let token = this_group.z * attention.tokens + min(n, attention.tokens - 1u);
    let first = token * attention.real_stride + this_group.y * attention.head_dim;
    let i = chunk * 32u + q * 4u;
    return vec4f(key(first, i, there), key(first, i + 1u, there), key(first, i + 2u, there), key(first, i + 3u, there));
}

// dM transposed on its way: output j, four i.
fn chunk_weight(chunk: u32, e: u32) -> vec4f {
    let j_tile = this_group.x % side();
    let at = head_product(this_group) + (j_tile * side() + chunk) * 1024u + e % 8u * 128u + e / 8u;
    return vec4f(dm_in[at], dm_in[at + 32u], dm_in[at + 64u], dm_in[at + 96u]);
}

fn chunk_vectors(chunk: u32) -> u32 {
    return min(8u, (attention.head_dim + 3u) / 4u - chunk * 8u);
}

@compute @workgroup_size(64)
fn values(@builtin(local_invocation_index) thread: u32, @builtin(workgroup_id) group: vec3u) {
    this_group = group;
    var sums = dense_product(thread, side());
    let j = group.x % side() * 32u + thread % 8u * 4u;
    for (var r = 0u; r < 8u; r += 1u) {
        let n = group.x / side() * 64u + thread / 8u * 8u + r;
        if n < attention.tokens {
            let head = (attention.first_head + group.y) * attention.head_dim;
            let at = (group.z * attention.tokens + n) * attention.all_stride + head + j;
            for (var c = 0u; c < 4u; c += 1u) {
                if j + c < attention.head_dim {
                    dv_out[at + c] = sums[r][c];
                }
            }
        }
    }
}
