// The surrogate derivative φ(x) of the spike, x the membrane's distance above its threshold.
//   0 sigmoid      α σ(αx) (1 - σ(αx))
//   1 atan         α/2 / (1 + (π α x / 2)²)
//   2 rectangular  α where |x| < 1 / (2α), else 0
//   3 triangular   α max(0, 1 - α|x|)

override SURROGATE: u32 = 0u;

fn surrogate(x: vec4f, alpha: f32) -> vec4f {
    var slope = vec4f();
    switch SURROGATE {
        case 1u: {
            let u = 1.5707963267948966 * alpha * x;
            slope = vec4f(0.5 * alpha) / (1.0 + u * u);
        }
        case 2u: {
            slope = select(vec4f(), vec4f(alpha), 2.0 * alpha * abs(x) < vec4f(1.0));
        }
        case 3u: {
            slope = alpha * max(vec4f(), 1.0 - alpha * abs(x));
        }
        default: {
            // σ(z)(1 - σ(z)) is even in z: taken at -|z|, where the exponential cannot overflow.
            let e = exp(-alpha * abs(x));
            slope = alpha * e / ((1.0 + e) * (1.0 + e));
        }
    }
    return slope;
}
