// spike_census: what a packed tensor's spikes add up to, exactly; with fired = plus | minus:
//   steps[t, b, p] = Σ popcount(plus), Σ popcount(minus), Σ popcount(fired) · reach(y, x), over the words of part p of an image
//   neurons[n, w]  = OR, then AND, of fired[t, b, n, w] over all t and b: which neurons ever fired, and which always did
//   channels[t, b, c] = Σ_n bit c of fired[t, b, n]
// reach(y, x) = rows(y) · cols(x) is how many outputs of a 3×3 convolution (pad 1) see the token: 9 inside, 6 at an edge, 4 in a
// corner; rows(y) = 1 + [y > 0] + [y < H - 1].
// Every count fits 32 bits: a part is a few lines of tokens, about 2048 words, and 9 · 32 · 2^20 < 2^32. The host adds in 64 bits.
//
// Grid: x, y (folded) workgroups in a line: one for each step, image and part; then one for each 64 words of neurons; then one
// for each step, image and word of channels (bit c of the even tokens on thread c (0..31), of the odd ones on thread 32 + c).
// Order: integers, so any.
//
// No branch or loop depends on the uniform alone: lavapipe would compile the kernel anew for its values, at every dispatch. The grid is
// one deep, so groups.z - 1 is a zero that is known only then.

struct SpikeCensus {
    images: u32,         // T * B
    height: u32,
    width: u32,
    words: u32,          // of one plane of a token
    planes: u32,         // 1, or 2 of ternary spikes
    parts: u32,          // of an image
    part_words: u32,     // of a part
    step_groups: u32,    // workgroups of the first kind
    neuron_groups: u32,  // of the second
    channel_groups: u32, // of the third
    channels_first: u32, // where its counts begin
}

@group(0) @binding(0) var<storage, read> spikes_in: array<u32>;        // [T][B][N][planes][words]
@group(0) @binding(1) var<storage, read_write> census_out: array<u32>; // [T][B][parts][3], [2][N][words], [T][B][words * 32]
@group(0) @binding(2) var<uniform> census: SpikeCensus;

var<workgroup> partial: array<u32, 192>;

fn tokens() -> u32 {
    return census.height * census.width;
}

fn plus(image: u32, token: u32, word: u32) -> u32 {
    return spikes_in[(image * tokens() + token) * census.planes * census.words + word];
}

fn minus(image: u32, token: u32, word: u32) -> u32 {
    // Of one plane the same word again, masked away.
    let second = census.planes - 1u;
    return spikes_in[((image * tokens() + token) * census.planes + second) * census.words + word] & (0u - second);
}

fn side(at: u32, size: u32) -> u32 {
    return 1u + u32(at > 0u) + u32(at + 1u < size);
}

fn count_steps(id: u32, thread: u32) {
    let image = id / census.parts;
    let first = id % census.parts * census.part_words;
    let end = min(first + census.part_words, tokens() * census.words);
    var counts = vec3u();
    for (var i = first + thread; i < end; i += 64u) {
        let token = i / census.words;
        let word = i % census.words;
        let p = countOneBits(plus(image, token, word));
        let m = countOneBits(minus(image, token, word));
        let reach = side(token / census.width, census.height) * side(token % census.width, census.width);
        counts += vec3u(p, m, (p + m) * reach);
    }
    partial[thread * 3u] = counts.x;
    partial[thread * 3u + 1u] = counts.y;
    partial[thread * 3u + 2u] = counts.z;
    workgroupBarrier();
    for (var width = 32u; width > 0u; width /= 2u) {
        if thread < width {
            for (var i = 0u; i < 3u; i += 1u) {
                partial[thread * 3u + i] += partial[(thread + width) * 3u + i];
            }
        }
        workgroupBarrier();
    }
    if thread < 3u {
        census_out[id * 3u + thread] = partial[thread];
    }
}

fn see_neurons(id: u32, thread: u32, zero: u32) {
    let all_words = tokens() * census.words;
    let i = id * 64u + thread;
    if i >= all_words {
        return;
    }
    var ever = 0u;
    var always = 0xffffffffu;
    for (var image = 0u; image < census.images + zero; image += 1u) {
        let fired = plus(image, i / census.words, i % census.words) | minus(image, i / census.words, i % census.words);
        ever |= fired;
        always &= fired;
    }
    let at = census.step_groups * 3u + i;
    census_out[at] = ever;
    census_out[at + all_words] = always;
}

@compute @workgroup_size(64)
fn main(@builtin(local_invocation_index) thread: u32, @builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u) {
    let id = group.x + group.y * groups.x;
    if id < census.step_groups {
        count_steps(id, thread);
    } else if id < census.step_groups + census.neuron_groups {
        see_neurons(id - census.step_groups, thread, groups.z - 1u);
    } else if id < census.step_groups + census.neuron_groups + census.channel_groups {
        let unit = id - census.step_groups - census.neuron_groups;
        let image = unit / census.words;
        let word = unit % census.words;
        var count = 0u;
        for (var first = 0u; first < tokens() + groups.z - 1u; first += 64u) {
            let token = first + thread;
            var fired = 0u;
            if token < tokens() {
                fired = plus(image, token, word) | minus(image, token, word);
            }
            partial[thread] = fired;
            workgroupBarrier();
            for (var i = thread / 32u; i < 64u; i += 2u) {
                count += (partial[i] >> (thread % 32u)) & 1u;
            }
            workgroupBarrier();
        }
        partial[thread] = count;
        workgroupBarrier();
        if thread < 32u {
            census_out[census.channels_first + unit * 32u + thread] = partial[thread] + partial[thread + 32u];
        }
    }
}
