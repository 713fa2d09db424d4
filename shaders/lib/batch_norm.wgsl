// Batch norm by given statistics on four channels at a time, in the order in which it is written:
//   x = (y - mean) * inv_std * gamma + beta

fn normalise(y: vec4f, mean: vec4f, inv_std: vec4f) -> vec4f {
    return (y - mean) * inv_std;
}

fn affine(y_normal: vec4f, gamma: vec4f, beta: vec4f) -> vec4f {
    return y_normal * gamma + beta;
}
