// A head's slice of a packed row: d channels that may begin and end anywhere inside words.

struct Attention {
    tokens: u32,      // N
    images: u32,      // T * B
    heads: u32,       // of this window of heads
    first_head: u32,  // of this window
    head_dim: u32,    // d
    words: u32,       // of a packed token: ceil(D / 32)
    real_stride: u32, // floats of a K or O token of this window
    all_stride: u32,  // floats of a real token of all heads
}

struct Slice {
    word: u32,  // first word, within the row
    shift: u32, // first bit, within the word
    mask: u32,  // which of the 32 bits belong to the head
}

// The 32 bits of head `head` (of all heads) from its channel `first` on.
fn slice(head: u32, first: u32) -> Slice {
    let bit = head * attention.head_dim + first;
    let left = attention.head_dim - first;
    return Slice(bit / 32u, bit % 32u, select((1u << (left % 32u)) - 1u, 0xffffffffu, left >= 32u));
}

// Joins a slice's two words; the second shift is split because a shift by 32 is not defined.
fn join(low: u32, high: u32, s: Slice) -> u32 {
    return ((low >> s.shift) | ((high << 1u) << (31u - s.shift))) & s.mask;
}

// Whether the slice's next word exists and is needed is left to this: the last word stands in for one past the row.
fn next_word(s: Slice) -> u32 {
    return min(s.word + 1u, attention.words - 1u);
}

fn spread(bits: u32) -> vec4u {
    return vec4u(0u) - ((vec4u(bits) >> vec4u(0u, 1u, 2u, 3u)) & vec4u(1u));
}

// value, -value or 0 as the ternary spike is 1, -1 or 0: the sign bit flipped and a mask, no product.
fn signed_term(value: vec4f, plus: vec4u, minus: vec4u) -> vec4f {
    return bitcast<vec4f>((bitcast<vec4u>(value) ^ (minus & vec4u(0x80000000u))) & (plus | minus));
}
