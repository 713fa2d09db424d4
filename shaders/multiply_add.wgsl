// multiply_add: y = sum over k = 0..7 of y_k, where y_k begins as x + k and `rounds` times becomes a y_k + b: what a device
// computes at most, by which other kernels are judged.
//
// Grid: x, y (folded) groups of 64 vec4f, one a thread, which keeps the eight chains of its vec4f in registers. The chains are
// added in order.

struct MultiplyAdd {
    vectors: u32, // T * B * N * ceil(C / 4)
    rounds: u32,
    factor: f32,  // a
    term: f32,    // b
}

@group(0) @binding(0) var<storage, read> x: array<vec4f>;              // [T][B*N][C/4]
@group(0) @binding(1) var<storage, read_write> real_out: array<vec4f>; // [T][B*N][C/4]
@group(0) @binding(2) var<uniform> map: MultiplyAdd;

@compute @workgroup_size(64)
fn main(@builtin(local_invocation_index) thread: u32, @builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u) {
    let at = (group.x + group.y * groups.x) * 64u + thread;
    if at >= map.vectors {
        return;
    }
    let a = vec4f(map.factor);
    let b = vec4f(map.term);
    var y0 = x[at];
    var y1 = y0 + 1.0;
    var y2 = y0 + 2.0;
    var y3 = y0 + 3.0;
    var y4 = y0 + 4.0;
    var y5 = y0 + 5.0;
    var y6 = y0 + 6.0;
    var y7 = y0 + 7.0;
    for (var round = 0u; round < map.rounds; round++) {
        y0 = fma(y0, a, b);
        y1 = fma(y1, a, b);
        y2 = fma(y2, a, b);
        y3 = fma(y3, a, b);
        y4 = fma(y4, a, b);
        y5 = fma(y5, a, b);
        y6 = fma(y6, a, b);
        y7 = fma(y7, a, b);
    }
    real_out[at] = ((((((y0 + y1) + y2) + y3) + y4) + y5) + y6) + y7;
}
