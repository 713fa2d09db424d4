// bn_apply: batch norm by given statistics:
//   x = (y - mean) * inv_std * gamma + beta   (RELU: at least 0)   [+ residual]
//
// Grid: x, y (folded) groups of 64 vec4f; a thread makes four channels of a row.
// Uses: batch_norm.

override RELU: bool = false;

struct BnApply {
    count: u32,   // T * B * H * W * vectors
    vectors: u32, // vec4f of a row: ceil(C / 4)
}

@group(0) @binding(0) var<storage, read> y: array<vec4f>;           // [T][B][H][W][C/4]
@group(0) @binding(1) var<storage, read> mean: array<vec4f>;        // [C/4]
@group(0) @binding(2) var<storage, read> inv_std: array<vec4f>;     // [C/4]
@group(0) @binding(3) var<storage, read> gamma: array<vec4f>;       // [C/4]
@group(0) @binding(4) var<storage, read> beta: array<vec4f>;        // [C/4]
@group(0) @binding(5) var<storage, read> residual: array<vec4f>;    // [T][B][H][W][C/4]
@group(0) @binding(6) var<storage, read_write> x_out: array<vec4f>; // [T][B][H][W][C/4]
@group(0) @binding(7) var<uniform> bn: BnApply;

fn normalised(at: u32) -> vec4f {
    let c = at % bn.vectors;
    let x = affine(normalise(y[at], mean[c], inv_std[c]), gamma[c], beta[c]);
    return select(x, max(x, vec4f()), RELU);
}

@compute @workgroup_size(64)
fn plain(@builtin(local_invocation_index) thread: u32, @builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u) {
    let at = (group.x + group.y * groups.x) * 64u + thread;
    if at < bn.count {
        x_out[at] = normalised(at);
    }
}

@compute @workgroup_size(64)
fn with_residual(@builtin(local_invocation_index) thread: u32, @builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u) {
    let at = (group.x + group.y * groups.x) * 64u + thread;
    if at < bn.count {
        x_out[at] = normalised(at) + residual[at];
    }
}
