// Where a linear layer's spike product finds its inputs: chunk c of 32 k is word c of the row's own token.
// The kernel supplies `spikes_in` [T][B*N][words_in] and what the epilogue asks for, which says what token and
// timestep a row is.

fn chunks() -> u32 {
    return product.words_in;
}

fn chunk_bits(chunk: u32) -> u32 {
    return min(32u, product.channels_in - chunk * 32u);
}

fn row_spikes(r: u32, chunk: u32) -> u32 {
    // Rows past the end read a valid row; their sums are not stored.
    let token = min(own_token(r), product.rows - 1u);
    let step = min(row_step(r), product.steps - 1u);
    return spikes_in[(step * product.rows + token) * product.words_in + chunk];
}
