// Four f16 as f32, by their bits: value = (-1)^sign * 2^(exponent - 15) * (1 + fraction / 1024), below 2^-14 fraction * 2^-24.
// Exact for all that are finite. unpack2x16float would do, but is an optional capability of naga's, which llvmpipe can lack.

// w: halves 0, 1 in x and 2, 3 in y, the first of each in the lower half.
fn halves(w: vec2u) -> vec4f {
    let h = vec4u(w.x, w.x >> 16u, w.y, w.y >> 16u);
    let magnitude = h & vec4u(0x7fffu);
    // The exponent's bias is 127 instead of 15.
    let bits = (magnitude << vec4u(13u)) + vec4u(0x38000000u);
    // With an exponent one higher, 2^-14 too much; the difference is exact, and normal in f32.
    let low = bitcast<vec4f>(bits + vec4u(0x800000u)) - vec4f(0x1p-14f);
    let value = select(bitcast<vec4f>(bits), low, magnitude < vec4u(0x400u));
    return bitcast<vec4f>(bitcast<vec4u>(value) | ((h & vec4u(0x8000u)) << vec4u(16u)));
}
