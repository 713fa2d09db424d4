// Where a 3×3 convolution's spike product finds its inputs (pad 1, stride 1): chunk c of 32 k is word c % words_in of the
// token at tap c / words_in, zeros outside the grid. The patch matrix is never written.
// The kernel supplies `spikes_in` [T][B][H][W][words_in] and what the epilogue asks for, which says what token and
// timestep a row is.

fn chunks() -> u32 {
    return 9u * product.words_in;
}

fn chunk_bits(chunk: u32) -> u32 {
    return min(32u, product.channels_in - chunk % product.words_in * 32u);
}

fn row_spikes(r: u32, chunk: u32) -> u32 {
    // Rows past the end read a valid row; their sums are not stored.
    let token = min(own_token(r), product.rows - 1u);
    let step = min(row_step(r), product.steps - 1u);
    let tap = chunk / product.words_in;
    let x = token % product.width + tap % 3u;                     // one more than the column read
    let y = token / product.width % product.height + tap / 3u;    // one more than the line read
    // No branch: outside the grid the token itself is read and masked away.
    let inside = (x - 1u < product.width) & (y - 1u < product.height);
    let source = select(token, token + (tap / 3u) * product.width + tap % 3u - product.width - 1u, inside);
    let word = spikes_in[(step * product.rows + source) * product.words_in + chunk % product.words_in];
    return select(0u, word, inside);
}
