// attention_census: which keys are not zero, and how often a key and a value meet.
//   `keys`:  bit i of keys[t, b, n] = [K[t, b, n, i] ≠ 0], of one window of channels
//   `pairs`: pairs[t, b] = Σ_n Σ_h |{i : K[t, b, n, h, i] ≠ 0}| · |{j : V[t, b, n, h, j] ≠ 0}|, the additions of Kᵀ V that add no zero
// A product of two counts of one head is below 2^32; sums are kept in two words, low and high.
//
// Grid: `keys`: x, y (folded) groups of 64 words, a thread each; `pairs`: x, y (folded) step and image, its 64 threads striding
// over tokens and heads.
// Order: integers, so any.

struct AttentionCensus {
    rows: u32,       // T * B * N, `keys`
    channels: u32,   // of the window, `keys`
    x_stride: u32,   // vec4f of a K token of the window
    first_word: u32, // of the window
    words: u32,      // of a packed token of all heads
    images: u32,     // T * B, `pairs`
    tokens: u32,     // N
    heads: u32,      // all
    head_dim: u32,   // d
}

@group(0) @binding(0) var<storage, read> k: array<vec4f>;             // [T*B*N][x_stride]
@group(0) @binding(1) var<storage, read> keys: array<u32>;            // [T][B][N][words]
@group(0) @binding(2) var<storage, read> v: array<u32>;               // [T][B][N][plus, minus][words]
@group(0) @binding(3) var<storage, read_write> keys_out: array<u32>;  // [T][B][N][words]
@group(0) @binding(4) var<storage, read_write> pairs_out: array<u32>; // [T][B][low, high]
@group(0) @binding(5) var<uniform> census: AttentionCensus;

var<workgroup> partial: array<vec2u, 64>;

@compute @workgroup_size(64)
fn keys_of_window(@builtin(local_invocation_index) thread: u32, @builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u) {
    let i = (group.x + group.y * groups.x) * 64u + thread;
    let window = (census.channels + 31u) / 32u;
    let row = i / window;
    let word = i % window;
    if row >= census.rows {
        return;
    }
    var bits = 0u;
    for (var vector = 0u; vector < min(8u, census.x_stride - word * 8u); vector += 1u) {
        // By the bits: a device may take a number too small to be normal for zero.
        let magnitude = bitcast<vec4u>(k[row * census.x_stride + word * 8u + vector]) & vec4u(0x7fffffffu);
        let full = vec4u(magnitude != vec4u()) << vec4u(0u, 1u, 2u, 3u);
        bits |= (full.x | full.y | full.z | full.w) << (vector * 4u);
    }
    // What pads a row is zero by contract; its bits are cut off all the same.
    let left = census.channels - word * 32u;
    keys_out[row * census.words + census.first_word + word] = bits & select((1u << (left % 32u)) - 1u, 0xffffffffu, left >= 32u);
}

// The bits of word `word` that belong to head `head`.
fn head_mask(head: u32, word: u32) -> u32 {
    let first = head * census.head_dim;
    let end = first + census.head_dim;
    var mask = 0xffffffffu;
    if first > word * 32u {
        mask &= 0xffffffffu << (first - word * 32u);
    }
    if end < word * 32u + 32u {
        mask &= 0xffffffffu >> (word * 32u + 32u - end);
    }
    return mask;
}

fn sum(a: vec2u, b: vec2u) -> vec2u {
    let low = a.x + b.x;
    return vec2u(low, a.y + b.y + u32(low < a.x));
}

@compute @workgroup_size(64)
fn pairs(@builtin(local_invocation_index) thread: u32, @builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u) {
    let image = group.x + group.y * groups.x;
    if image >= census.images {
        return;
    }
    var total = vec2u();
    // groups.z is 1: without it lavapipe would compile the kernel for the uniform's values, at every dispatch.
    for (var i = thread; i < census.tokens * census.heads + groups.z - 1u; i += 64u) {
        let token = image * census.tokens + i / census.heads;
        let head = i % census.heads;
        var of_keys = 0u;
        var of_values = 0u;
        for (var word = head * census.head_dim / 32u; word * 32u < (head + 1u) * census.head_dim; word += 1u) {
            let mask = head_mask(head, word);
            of_keys += countOneBits(keys[token * census.words + word] & mask);
            let at = token * 2u * census.words + word;
            of_values += countOneBits((v[at] | v[at + census.words]) & mask);
        }
        total = sum(total, vec2u(of_keys * of_values, 0u));
    }
    partial[thread] = total;
    workgroupBarrier();
    for (var width = 32u; width > 0u; width /= 2u) {
        if thread < width {
            partial[thread] = sum(partial[thread], partial[thread + width]);
        }
        workgroupBarrier();
    }
    if thread == 0u {
        pairs_out[image * 2u] = partial[0].x;
        pairs_out[image * 2u + 1u] = partial[0].y;
    }
}
