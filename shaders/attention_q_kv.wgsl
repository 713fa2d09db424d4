// attention_q_kv: O = Q M of every timestep, image and head, M = Kᵀ V from attention_kv:
//   o[n, j] = Σ_i q[n, i] m[i, j], q in {0, 1}
// A spike product whose weights are the head's own M.
//
// Grid: x tiles of 64 tokens × 32 j, y head of the window, z timestep and image. Thread mapping and order of addition (i
// ascending): lib/spike_product.wgsl.
// Uses: spike_product, head_slice.

@group(0) @binding(0) var<storage, read> q_in: array<u32>;            // [T*B][N][words], all heads
@group(0) @binding(1) var<storage, read> m_in: array<vec4f>;          // [T*B][heads][d/32 of j][32 (d/32) i][32 j], d rounded up to 32
@group(0) @binding(2) var<storage, read_write> o_out: array<f32>;     // [T*B][N][real_stride], the window's heads
@group(0) @binding(3) var<uniform> attention: Attention;

var<private> this_thread: u32;
var<private> this_group: vec3u;

fn side() -> u32 {
    return (attention.head_dim + 31u) / 32u;
}

fn token(r: u32) -> u32 {
    return this_group.x / side() * TILE_ROWS + this_thread / 8u * THREAD_ROWS + r;
}

fn chunk_bits(chunk: u32) -> u32 {
    return min(32u, attention.head_dim - chunk * 32u);
}

fn chunk_weight(chunk: u32, i: u32) -> vec4f {
    let j_tile = this_group.x % side();
    return m_in[(((this_group.z * attention.heads + this_group.y) * side() + j_tile) * side() + chunk) * 256u + i];
}

fn row_spikes(r: u32, chunk: u32) -> u32 {
    // Tokens past the end read a valid row; their sums are not stored.
    let row = (this_group.z * attention.tokens + min(token(r), attention.tokens - 1u)) * attention.words;
    let s = slice(attention.first_head + this_group.y, chunk * 32u);
    return join(q_in[row + s.word], q_in[row + next_word(s)], s);
}

@compute @workgroup_size(64)
fn main(@builtin(local_invocation_index) thread: u32, @builtin(workgroup_id) group: vec3u) {
    this_thread = thread;
    this_group = group;
    var sums = spike_product(thread, side());
    let j = group.x % side() * 32u + thread % 8u * 4u;
    for (var r = 0u; r < THREAD_ROWS; r += 1u) {
        if token(r) < attention.tokens {
            let at = (group.z * attention.tokens + token(r)) * attention.real_stride + group.y * attention.head_dim + j;
            for (var c = 0u; c < 4u; c += 1u) {
                if j + c < attention.head_dim {
                    o_out[at + c] = sums[r][c];
                }
            }
        }
    }
}
