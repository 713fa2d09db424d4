// What the backward passes of products share: the uniform, the gradient of the output row by row, and the sum of the partial
// weight gradients. The kernel supplies its bindings (`gradient_in`, `partials_in`, `weights_out`) and `product`.

struct ProductBackward {
    rows: u32,            // T * B * H * W of the gradient
    height: u32,          // of the grid, conv only
    width: u32,           // of the grid, conv only
    channels_in: u32,
    words_in: u32,        // words of an input token
    channels_out: u32,    // of this window of output channels
    gradient_stride: u32, // vec4f from one row of the gradient to the next
    gradient_first: u32,  // first vec4f of this window
    in_rows: u32,         // conv of real values only: S * B * H * W of the input
    in_stride: u32,       // conv of real values only: floats of an input row
    split_rows: u32,      // rows of one split, a multiple of 64 (weights)
    splits: u32,          // partial sums (combine)
    weights_len: u32,     // vec4f of the packed weights of this window (combine)
    out_stride: u32,      // vec4f of a row of the input's gradient (input)
    out_word: u32,        // first word of inputs that the input's gradient covers (input)
    accumulate: u32,      // 1: the input's gradient is added to what is there (input)
    tiles: u32,           // of the folded dimension of the grid
}

// Channels 4 * vector.. of this window of the gradient's row; zeros past the end of either, whatever the padding holds.
fn gradient(row: u32, vector: u32) -> vec4f {
    let there = (row < product.rows) & (4u * vector < product.channels_out);
    let at = row * product.gradient_stride + product.gradient_first + vector;
    let channels = vec4u(4u * vector) + vec4u(0u, 1u, 2u, 3u);
    // A load that is not there reads the first vector and is masked away.
    return select(vec4f(), gradient_in[select(0u, at, there)], (channels < vec4u(product.channels_out)) & vec4<bool>(there));
}

// The row beside `row` at the tap (0..8, 4 itself), and whether it lies inside the grid; if not, `row` itself.
fn neighbour(row: u32, tap: u32) -> vec2u {
    let x = row % product.width + tap % 3u;                   // one more than the column
    let y = row / product.width % product.height + tap / 3u;  // one more than the line
    let inside = (x - 1u < product.width) & (y - 1u < product.height);
    return vec2u(select(row, row + (tap / 3u) * product.width + tap % 3u - product.width - 1u, inside), u32(inside));
}

// Partial sums in order, one vec4f a thread of 64.
fn combine_partials(thread: u32, group: u32) {
    let at = group * 64u + thread;
    if at < product.weights_len {
        var sum = vec4f();
        for (var split = 0u; split < product.splits; split += 1u) {
            sum += partials_in[split * product.weights_len + at];
        }
        weights_out[at] = sum;
    }
}
