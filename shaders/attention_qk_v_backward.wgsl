// attention_qk_v_backward: of O = A V, A = Q Kᵀ of every timestep, image and head, with the gradient G of O and dA = G Vᵀ:
//   values   dV = Aᵀ G:   dv[m, j] = Σ_n a[n, m] g[n, j],    a[n, m] = Σ_i q[n, i] k[m, i],  q in {0, 1}
//   queries  dQ = dA K:   dq[n, i] = Σ_m da[n, m] k[m, i],   da[n, m] = Σ_j g[n, j] v[m, j],  v in {-1, 0, 1}
//   keys     dK = dAᵀ Q:  dk[m, i] = Σ_n da[n, m] q[n, i] where k[m, i] > 0, else 0                  additions only
// K is the output of a ReLU, whose mask is applied here: dK is the gradient of what went into it. The N × N scores and their
// gradients are computed again tile by tile and never leave the workgroup.
//
// Grid: x tiles of 32 tokens × 32 channels of the result, y head of the window, z timestep and image. 64 threads own 4 tokens ×
// 4 columns each, of the 32 × 32 scores and of the 32 × 32 results.
// Order: a by i, da by j, results by n or m, all ascending.
// Uses: head_slice.

@group(0) @binding(0) var<storage, read> q_in: array<u32>;          // [T*B][N][words], all heads
@group(0) @binding(1) var<storage, read> k_in: array<f32>;          // [T*B][N][real_stride], the window's heads
@group(0) @binding(2) var<storage, read> v_in: array<u32>;          // [T*B][N][plus, minus][words], all heads
@group(0) @binding(3) var<storage, read> g_in: array<f32>;          // [T*B][N][real_stride], the window's heads
@group(0) @binding(4) var<storage, read_write> dq_out: array<f32>;  // [T*B][N][all_stride], all heads
@group(0) @binding(5) var<storage, read_write> dk_out: array<f32>;  // [T*B][N][real_stride], the window's heads
@group(0) @binding(6) var<storage, read_write> dv_out: array<f32>;  // [T*B][N][all_stride], all heads
@group(0) @binding(7) var<uniform> attention: Attention;

// [32 channels][32 tokens], lines one longer: threads that store neighbouring channels write different banks.
var<workgroup> column_tile: array<f32, 1056>;
var<workgroup> score_tile: array<vec4f, 256>; // a as [32 n][32 m], da as [32 m][32 n]
var<workgroup> row_tile: array<vec4f, 256>;   // [32 tokens][8 vec4f of channels]
var<workgroup> query_tile: array<u32, 32>;

fn side() -> u32 {
    return (attention.head_dim + 31u) / 32u;
}

// Where the head's channels of a token of the window begin; tokens past the end read the last and are masked away.
fn head_row(group: vec3u, token: u32) -> u32 {
    let row = group.z * attention.tokens + min(token, attention.tokens - 1u);
    return row * attention.real_stride + group.y * attention.head_dim;
}

fn exists(token: u32, channel: u32) -> bool {
    return (token < attention.tokens) & (channel < attention.head_dim);
}

fn key(group: vec3u, m: u32, i: u32) -> f32 {
    return select(0.0, k_in[head_row(group, m) + min(i, attention.head_dim - 1u)], exists(m, i));
}

fn gradient(group: vec3u, n: u32, j: u32) -> f32 {
    return select(0.0, g_in[head_row(group, n) + min(j, attention.head_dim - 1u)], exists(n, j));
}

// Tokens past the end read a valid row; what comes of them is not added.
fn query_bits(group: vec3u, n: u32, s: Slice) -> u32 {
    let row = (group.z * attention.tokens + min(n, attention.tokens - 1u)) * attention.words;
    return join(q_in[row + s.word], q_in[row + next_word(s)], s);
}

fn value_bits(group: vec3u, m: u32, s: Slice) -> vec2u {
    let row = (group.z * attention.tokens + min(m, attention.tokens - 1u)) * 2u * attention.words;
    return vec2u(
        join(v_in[row + s.word], v_in[row + next_word(s)], s),
        join(v_in[row + attention.words + s.word], v_in[row + attention.words + next_word(s)], s),
    );
}

// value, -value or 0 as bit c of the plus and minus words is set.
fn term(value: vec4f, bits: vec2u, c: u32) -> vec4f {
    let masks = vec2u(0u) - ((bits >> vec2u(c)) & vec2u(1u));
    return signed_term(value, vec4u(masks.x), vec4u(masks.y));
}

// Adds a chunk of `depth` channels: rows of bits by the columns of `column_tile`, 4 × 4 a thread.
fn add_chunk(a: array<vec4f, 4>, b0: vec2u, b1: vec2u, b2: vec2u, b3: vec2u, lane: u32, depth: u32) -> array<vec4f, 4> {
    var s0 = a[0];
    var s1 = a[1];
    var s2 = a[2];
    var s3 = a[3];
    for (var c = 0u; c < depth; c += 1u) {
        let at = c * 33u + lane * 4u;
        let x = vec4f(column_tile[at], column_tile[at + 1u], column_tile[at + 2u], column_tile[at + 3u]);
        s0 += term(x, b0, c);
        s1 += term(x, b1, c);
        s2 += term(x, b2, c);
        s3 += term(x, b3, c);
    }
    return array<vec4f, 4>(s0, s1, s2, s3);
}

fn store_scores(thread: u32, a: array<vec4f, 4>) {
    let at = thread / 8u * 32u + thread % 8u;
    score_tile[at] = a[0];
    score_tile[at + 8u] = a[1];
    score_tile[at + 16u] = a[2];
    score_tile[at + 24u] = a[3];
}

// a of 32 n × 32 m into score_tile, readable after the next barrier. Its own first barrier comes after every thread has read
// what score_tile and row_tile held before.
fn scores(thread: u32, group: vec3u, first_n: u32, first_m: u32) {
    var a = array<vec4f, 4>();
    let n = first_n + thread / 8u * 4u;
    for (var first_i = 0u; first_i < attention.head_dim; first_i += 32u) {
        workgroupBarrier();
        for (var e = thread; e < 1024u; e += 64u) {
            column_tile[e % 32u * 33u + e / 32u] = key(group, first_m + e / 32u, first_i + e % 32u);
        }
        let s = slice(attention.first_head + group.y, first_i);
        let b0 = vec2u(query_bits(group, n, s), 0u);
        let b1 = vec2u(query_bits(group, n + 1u, s), 0u);
        let b2 = vec2u(query_bits(group, n + 2u, s), 0u);
        let b3 = vec2u(query_bits(group, n + 3u, s), 0u);
        workgroupBarrier();
        a = add_chunk(a, b0, b1, b2, b3, thread % 8u, min(32u, attention.head_dim - first_i));
    }
    store_scores(thread, a);
}

// da of 32 m × 32 n into score_tile, likewise.
fn score_gradients(thread: u32, group: vec3u, first_m: u32, first_n: u32) {
    var a = array<vec4f, 4>();
    let m = first_m + thread / 8u * 4u;
    for (var first_j = 0u; first_j < attention.head_dim; first_j += 32u) {
        workgroupBarrier();
        for (var e = thread; e < 1024u; e += 64u) {
            column_tile[e % 32u * 33u + e / 32u] = gradient(group, first_n + e / 32u, first_j + e % 32u);
        }
        let s = slice(attention.first_head + group.y, first_j);
        let b0 = value_bits(group, m, s);
        let b1 = value_bits(group, m + 1u, s);
        let b2 = value_bits(group, m + 2u, s);
        let b3 = value_bits(group, m + 3u, s);
        workgroupBarrier();
        a = add_chunk(a, b0, b1, b2, b3, thread % 8u, min(32u, attention.head_dim - first_j));
    }
    store_scores(thread, a);
}

// Adds `depth` tokens of score_tile's 4 columns times row_tile's 4 channels of this thread.
fn add_products(o: array<vec4f, 4>, thread: u32, depth: u32) -> array<vec4f, 4> {
    var s0 = o[0];
    var s1 = o[1];
    var s2 = o[2];
    var s3 = o[3];
    for (var token = 0u; token < depth; token += 1u) {
        let a = score_tile[token * 8u + thread / 8u];
        let x = row_tile[token * 8u + thread % 8u];
        s0 += a.x * x;
        s1 += a.y * x;
        s2 += a.z * x;
        s3 += a.w * x;
    }
    return array<vec4f, 4>(s0, s1, s2, s3);
}

@compute @workgroup_size(64)
fn values(@builtin(local_invocation_index) thread: u32, @builtin(workgroup_id) group: vec3u) {
    let j_tile = group.x % side();
    let first_m = group.x / side() * 32u;
    var sums = array<vec4f, 4>();
    for (var first_n = 0u; first_n < attention.tokens; first_n += 32u) {
        scores(thread, group, first_n, first_m);
        for (var e = thread; e < 256u; e += 64u) {
            let n = first_n + e / 8u;
            let j = j_tile * 32u + e % 8u * 4u;
            row_tile[e] =
                vec4f(gradient(group, n, j), gradient(group, n, j + 1u), gradient(group, n, j + 2u), gradient(group, n, j + 3u));
        }
        workgroupBarrier();
        sums = add_products(sums, thread, min(32u, attention.tokens - first_n));
    }
    let j = j_tile * 32u + thread % 8u * 4u;
    for (var r = 0u; r < 4u; r += 1u) {
        let m = first_m + thread / 8u * 4u + r;
        let head = (attention.first_head + group.y) * attention.head_dim;
        let at = (group.z * attention.tokens + m) * attention.all_stride + head + j;
        for (var c = 0u; c < 4u; c += 1u) {
            if exists(m, j + c) {
                dv_out[at + c] = sums[r][c];
            }
        }
    }
}

@compute @workgroup_size(64)
fn queries(@builtin(local_invocation_index) thread: u32, @builtin(workgroup_id) group: vec3u) {
    let i_tile = group.x % side();
    let first_n = group.x / side() * 32u;
    var sums = array<vec4f, 4>();
    for (var first_m = 0u; first_m < attention.tokens; first_m += 32u) {
        score_gradients(thread, group, first_m, first_n);
        for (var e = thread; e < 256u; e += 64u) {
            let m = first_m + e / 8u;
            let i = i_tile * 32u + e % 8u * 4u;
            row_tile[e] = vec4f(key(group, m, i), key(group, m, i + 1u), key(group, m, i + 2u), key(group, m, i + 3u));
        }
        workgroupBarrier();
        sums = add_products(sums, thread, min(32u, attention.tokens - first_m));
    }
    let i = i_tile * 32u + thread % 8u * 4u;
    for (var r = 0u; r < 4u; r += 1u) {
        let n = first_n + thread / 8u * 4u + r;
        let head = (attention.first_head + group.y) * attention.head_dim;
        let at = (group.z * attention.tokens + n) * attention.all_stride + head + i;
        for (var c = 0u; c < 4u; c += 1u) {
            if exists(n, i + c) {
                dq_out[at + c] = sums[r][c];
            }
        }
    }
}

@compute @workgroup_size(64)
fn keys(@builtin(local_invocation_index) thread: u32, @builtin(workgroup_id) group: vec3u) {
    let i_tile = group.x % side();
    let first_m = group.x / side() * 32u;
    let row = thread / 8u * 4u;
    let lane = thread % 8u;
    let s = slice(attention.first_head + group.y, i_tile * 32u);
    var s0 = vec4f();
    var s1 = vec4f();
    var s2 = vec4f();
    var s3 = vec4f();
    for (var first_n = 0u; first_n < attention.tokens; first_n += 32u) {
        score_gradients(thread, group, first_m, first_n);
        if thread < 32u {
            query_tile[thread] = query_bits(group, first_n + thread, s);
        }
        workgroupBarrier();
        for (var n = 0u; n < min(32u, attention.tokens - first_n); n += 1u) {
            let bits = spread(query_tile[n] >> (4u * lane));
            s0 += signed_term(vec4f(score_tile[row * 8u + n / 4u][n % 4u]), bits, vec4u());
            s1 += signed_term(vec4f(score_tile[(row + 1u) * 8u + n / 4u][n % 4u]), bits, vec4u());
            s2 += signed_term(vec4f(score_tile[(row + 2u) * 8u + n / 4u][n % 4u]), bits, vec4u());
            s3 += signed_term(vec4f(score_tile[(row + 3u) * 8u + n / 4u][n % 4u]), bits, vec4u());
        }
    }
    var sums = array<vec4f, 4>(s0, s1, s2, s3);
    let i = i_tile * 32u + lane * 4u;
    for (var r = 0u; r < 4u; r += 1u) {
        let m = first_m + row + r;
        let at = head_row(group, m) + i;
        for (var c = 0u; c < 4u; c += 1u) {
            if exists(m, i + c) {
                dk_out[at + c] = select(0.0, sums[r][c], k_in[at + c] > 0.0);
            }
        }
    }
}
