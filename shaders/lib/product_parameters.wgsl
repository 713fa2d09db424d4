// The uniform of a spike product, and the constants of its epilogues. The kernel supplies its binding `product`.

override STEP_BLOCK: u32 = 4u; // timesteps that one load of the weights serves, a power of two
override RELU: bool = false;

struct Product {
    rows: u32,         // B * H * W output tokens
    steps: u32,        // T
    height: u32,       // of the grid, conv only
    width: u32,        // of the grid, conv only
    channels_in: u32,
    words_in: u32,     // words of an input token
    channels_out: u32, // of this window of output channels
    out_stride: u32,   // vec4f (real) or words (spikes) from one output token to the next
    out_first: u32,    // first vec4f or word of this window
    minus_plane: u32,  // words from a token's plus word to its minus word (ternary)
    tiles: u32,        // row tiles
    v_threshold: f32,
    v_reset: f32,
    inv_tau: f32,
}

fn step_blocks() -> u32 {
    return (product.steps + STEP_BLOCK - 1u) / STEP_BLOCK;
}

fn neuron() -> Neuron {
    return Neuron(product.v_threshold, product.v_reset, product.inv_tau);
}
