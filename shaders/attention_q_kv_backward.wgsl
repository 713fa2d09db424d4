// attention_q_kv_backward: of O = Q M of every timestep, image and head, with the gradient G of O:
//   kv       dM = Qᵀ G:  dm[i, j] = Σ_n q[n, i] g[n, j], q in {0, 1}   additions only
//   queries  dQ = G Mᵀ:  dq[n, i] = Σ_j g[n, j] m[i, j]                a dense product
//
// Grids: kv x tiles of 32 i × 32 j, queries x tiles of 64 tokens × 32 i; y head of the window, z timestep and image. In `kv` 64
// threads own 4 i × 4 j each and 32 tokens of Q and G pass through workgroup memory at a time; queries: lib/dense_product.wgsl.
// Order: kv n ascending, queries j ascending.
// Uses: head_slice, dense_product.

@group(0) @binding(0) var<storage, read> q_in: array<u32>;            // [T*B][N][words], all heads
@group(0) @binding(1) var<storage, read> m_in: array<vec4f>;          // [T*B][heads][d/32 of j][32 (d/32) i][32 j], d rounded up to 32
@group(0) @binding(2) var<storage, read> g_in: array<f32>;            // [T*B][N][real_stride], the window's heads
@group(0) @binding(3) var<storage, read_write> dm_out: array<vec4f>;  // [T*B][heads][d/32 of j][32 (d/32) i][32 j], d rounded up to 32
@group(0) @binding(4) var<storage, read_write> dq_out: array<f32>;    // [T*B][N][all_stride], all heads
@group(0) @binding(5) var<uniform> attention: Attention;

var<workgroup> gradient_tile: array<vec4f, 256>; // [32 n][8 vec4f of j]
var<workgroup> query_tile: array<u32, 32>;

var<private> this_group: vec3u;

fn side() -> u32 {
    return (attention.head_dim + 31u) / 32u;
}

fn component(first: u32, j: u32, there: bool) -> f32 {
    // A channel past the head's end reads the last and is masked away.
    return select(0.0, g_in[first + min(j, attention.head_dim - 1u)], there & (j < attention.head_dim));
}

// G of this head at j..j+3, zeros past the last token and channel.
fn gradient(group: vec3u, n: u32, j: u32) -> vec4f {
    let there = n < attention.tokens;
    let row = group.z * attention.tokens + min(n, attention.tokens - 1u);
    let first = row * attention.real_stride + group.y * attention.head_dim;
    return vec4f(
        component(first, j, there),
        component(first, j + 1u, there),
        component(first, j + 2u, there),
        component(first, j + 3u, there),
    );
}

fn selected(g: vec4u, spikes: u32, i: u32) -> vec4f {
    return bitcast<vec4f>(g & vec4u(0u - ((spikes >> i) & 1u)));
}

@compute @workgroup_size(64)
fn kv(@builtin(local_invocation_index) thread: u32, @builtin(workgroup_id) group: vec3u) {
    let i_tile = group.x % side();
    let j_tile = group.x / side();
    let first_i = thread / 8u * 4u;
    let lane = thread % 8u; // 4 j
    let s = slice(attention.first_head + group.y, i_tile * 32u);
    var m0 = vec4f();
    var m1 = vec4f();
    var m2 = vec4f();
    var m3 = vec4f();
    for (var first = 0u; first < attention.tokens; first += 32u) {
        workgroupBarrier();
        for (var e = thread; e < 256u; e += 64u) {
            gradient_tile[e] = gradient(group, first + e / 8u, j_tile * 32u + e % 8u * 4u);
        }
        if thread < 32u {
            // Tokens past the end read a valid row; they are not added.
            let row = (group.z * attention.tokens + min(first + thread, attention.tokens - 1u)) * attention.words;
            query_tile[thread] = join(q_in[row + s.word], q_in[row + next_word(s)], s);
        }
        workgroupBarrier();
        for (var n = 0u; n < min(32u, attention.tokens - first); n += 1u) {
            let g = bitcast<vec4u>(gradient_tile[n * 8u + lane]);
            let spikes = query_tile[n] >> first_i;
            m0 += selected(g, spikes, 0u);
            m1 += selected(g, spikes, 1u);
            m2 += selected(g, spikes, 2u);
            m3 += selected(g, spikes, 3u);
        }
    }
    let at = (((group.z * attention.heads + group.y) * side() + j_tile) * side() * 32u + i_tile * 32u + first_i) * 8u + lane;
    dm_out[at] = m0;
    dm_out[at + 8u] = m1;
    dm_out[at + 16u] = m2;
    dm_out[at + 24u] = m3;
}

fn row_vector(row: u32, chunk: u32, q: u32) -> vec4f {
    return gradient(this_group, this_group.x / side() * 64u + row, chunk * 32u + q * 4u);
}

fn chunk_weight(chunk: u32, i: u32) -> vec4f {
    let i_tile = this_group.x % side();
    return m_in[(((this_group.z * attention.heads + this_group.y) * side() + chunk) * side() + i_tile) * 256u + i];
}

fn chunk_vectors(chunk: u32) -> u32 {
    return min(8u, (attention.head_dim + 3u) / 4u - chunk * 8u);
}

@compute @workgroup_size(64)
fn queries(@builtin(local_invocation_index) thread: u32, @builtin(workgroup_id) group: vec3u) {
    this_group = group;
    var sums = dense_product(thread, side());
    let i = group.x % side() * 32u + thread % 8u * 4u;
    for (var r = 0u; r < 8u; r += 1u) {
        let n = group.x / side() * 64u + thread / 8u * 8u + r;
        if n < attention.tokens {
            let head = (attention.first_head + group.y) * attention.head_dim;
            let at = (group.z * attention.tokens + n) * attention.all_stride + head + i;
            for (var c = 0u; c < 4u; c += 1u) {
                if i + c < attention.head_dim {
                    dq_out[at + c] = sums[r][c];
                }
            }
        }
    }
}
