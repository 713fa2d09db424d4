//! Batch norm of inference folded to one scale and one shift per channel, on the host, in f64: WGSL's square root and division
//! are not exact.

/// `y = (x + b - mean) / sqrt(var + eps) · weight + bias` as `x · scale + shift`; `eps` and everything else as f32 holds it.
///
/// All slices have one value per channel; `conv_bias` may be empty for none.
pub fn bn_fold(
    weight: &[f32],
    bias: &[f32],
    mean: &[f32],
    var: &[f32],
    eps: f32,
    conv_bias: &[f32],
) -> (Vec<f32>, Vec<f32>) {
    (0..weight.len())
        .map(|c| {
            let scale = f64::from(weight[c]) / (f64::from(var[c]) + f64::from(eps)).sqrt();
            let b = conv_bias.get(c).copied().unwrap_or(0.0);
            let shift = f64::from(bias[c]) + (f64::from(b) - f64::from(mean[c])) * scale;
            (scale as f32, shift as f32)
        })
        .unzip()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folds_to_the_formula() {
        let (a, b) = bn_fold(&[2.0, 1.0], &[0.5, -1.0], &[1.0, 0.0], &[4.0 - 1e-5, 0.25], 1e-5, &[3.0, 0.0]);
        for (i, x) in [(0usize, 0.7f64), (1, -0.3)] {
            let (w, beta, mean, var, cb) = [(2.0, 0.5, 1.0, 4.0 - 1e-5, 3.0), (1.0, -1.0, 0.0, 0.25, 0.0)][i];
            let y = (x + cb - mean) / (var + 1e-5f64).sqrt() * w + beta;
            assert!((x * f64::from(a[i]) + f64::from(b[i]) - y).abs() < 1e-6);
        }
        assert_eq!(bn_fold(&[1.0], &[0.0], &[0.0], &[1.0 - 1e-5], 1e-5, &[]).0, [1.0]);
    }
}
