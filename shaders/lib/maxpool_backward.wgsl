// The gradient of the 3×3 stride-2 pad-1 max-pool, gathered: an input position takes the gradient of each of the up to four
// windows that contain it in which it is the first maximum in row-major order.
//   g_in[r, c] = Σ over windows (i, j) ∋ (r, c): first maximum of (i, j) is (r, c) ? g_y[i, j] : 0
// Order: windows in row-major order.
// The kernel supplies the binding `g_y` and value(token, vector), four channels of the pool's input.

struct MaxpoolBackward {
    count: u32,   // T * B * H * W * vectors
    height: u32,  // of the input
    width: u32,
    vectors: u32, // vec4f of a token: ceil(C / 4)
}

// What input vec4f `at` takes.
fn gather(at: u32) -> vec4f {
    let vector = at % pool.vectors;
    let token = at / pool.vectors;
    let c = token % pool.width;
    let r = token / pool.width % pool.height;
    let image = token / pool.width / pool.height;
    let height_out = (pool.height + 1u) / 2u;
    let width_out = (pool.width + 1u) / 2u;
    let own = value(token, vector);
    var sum = vec4f();
    // An odd position lies on the rim of two windows, an even one in the middle of one.
    for (var i = r / 2u; i <= min((r + 1u) / 2u, height_out - 1u); i += 1u) {
        for (var j = c / 2u; j <= min((c + 1u) / 2u, width_out - 1u); j += 1u) {
            var is_first = vec4<bool>(true);
            for (var line = max(2u * i, 1u) - 1u; line < min(2u * i + 2u, pool.height); line += 1u) {
                for (var column = max(2u * j, 1u) - 1u; column < min(2u * j + 2u, pool.width); column += 1u) {
                    let other = (image * pool.height + line) * pool.width + column;
                    let x = value(other, vector);
                    is_first &= (own > x) | ((own == x) & vec4<bool>(token <= other));
                }
            }
            let window = (image * height_out + i) * width_out + j;
            sum += select(vec4f(), g_y[window * pool.vectors + vector], is_first);
        }
    }
    return sum;
}
