// bn_backward: the gradient of batch norm (bn_apply), y^ = (y - mean) * inv_std recomputed from y:
//   g = g_x (RELU: where y^ * gamma + beta > 0, else 0),   g_beta = Σ g,   g_gamma = Σ g y^   over all n rows
//   batch statistics:   g_y = gamma * inv_std * (g - g_beta / n - y^ * g_gamma / n)
//   frozen statistics:  g_y = gamma * inv_std * g
//
// partial, combine: g_beta and g_gamma. Grid, threads and order: lib/channel_sums.wgsl. combine writes them twice, once side
// by side, so that batch gets along with 8 bindings.
// batch, frozen: x, y (folded) groups of 64 vec4f; a thread makes four channels of a row. `in_place` they find g_x in g_y.
// Uses: batch_norm, channel_sums.

override RELU: bool = false;

struct BnBackward {
    count: u32,      // T * B * H * W * vectors
    rows: u32,       // T * B * H * W
    vectors: u32,    // vec4f of a row: ceil(C / 4)
    blocks: u32,     // of rows
    block_rows: u32,
    inv_rows: f32,   // 1 / n
}

@group(0) @binding(0) var<storage, read> g_x: array<vec4f>;                // [T][B][H][W][C/4]
@group(0) @binding(1) var<storage, read> y: array<vec4f>;                  // [T][B][H][W][C/4]
@group(0) @binding(2) var<storage, read> mean: array<vec4f>;               // [C/4]
@group(0) @binding(3) var<storage, read> inv_std: array<vec4f>;            // [C/4]
@group(0) @binding(4) var<storage, read> gamma: array<vec4f>;              // [C/4]
@group(0) @binding(5) var<storage, read> beta: array<vec4f>;               // [C/4]
@group(0) @binding(6) var<storage, read_write> partials_out: array<vec4f>; // [blocks][g_beta, g_gamma][C/4]
@group(0) @binding(7) var<storage, read> partials: array<vec4f>;           // [blocks][g_beta, g_gamma][C/4]
@group(0) @binding(8) var<storage, read_write> g_beta: array<vec4f>;       // [C/4]
@group(0) @binding(9) var<storage, read_write> g_gamma: array<vec4f>;      // [C/4]
@group(0) @binding(10) var<storage, read_write> sums_out: array<vec4f>;    // [g_beta, g_gamma][C/4]
@group(0) @binding(11) var<storage, read> sums: array<vec4f>;              // [g_beta, g_gamma][C/4]
@group(0) @binding(12) var<storage, read_write> g_y: array<vec4f>;         // [T][B][H][W][C/4]
@group(0) @binding(13) var<uniform> bn: BnBackward;

fn join(first: Sums, second: Sums) -> Sums {
    return Sums(first.count + second.count, first.a + second.a, first.b + second.b);
}

fn normal(at: u32, c: u32) -> vec4f {
    return normalise(y[at], mean[c], inv_std[c]);
}

fn masked(g: vec4f, c: u32, y_normal: vec4f) -> vec4f {
    return select(g, vec4f(), vec4<bool>(RELU) & (affine(y_normal, gamma[c], beta[c]) <= vec4f()));
}

@compute @workgroup_size(256)
fn partial(@builtin(local_invocation_index) thread: u32, @builtin(workgroup_id) group: vec3u) {
    let vector = group.x * LANES + thread % LANES;
    let first = group.y * bn.block_rows;
    let end = min(first + bn.block_rows, bn.rows);
    var own = Sums();
    if vector < bn.vectors {
        for (var row = first + thread / LANES; row < end; row += ROW_LANES) {
            let at = row * bn.vectors + vector;
            let y_normal = normal(at, vector);
            let g = masked(g_x[at], vector, y_normal);
            own.a += g;
            own.b += g * y_normal;
        }
    }
    own = join_lanes(thread, own);
    if thread < LANES && vector < bn.vectors {
        partials_out[2u * group.y * bn.vectors + vector] = own.a;
        partials_out[(2u * group.y + 1u) * bn.vectors + vector] = own.b;
    }
}

@compute @workgroup_size(256)
fn combine(@builtin(local_invocation_index) thread: u32, @builtin(workgroup_id) group: vec3u) {
    let vector = group.x * LANES + thread % LANES;
    var own = Sums();
    if vector < bn.vectors {
        for (var block = thread / LANES; block < bn.blocks; block += ROW_LANES) {
            let at = 2u * block * bn.vectors + vector;
            own.a += partials[at];
            own.b += partials[at + bn.vectors];
        }
    }
    own = join_lanes(thread, own);
    if thread < LANES && vector < bn.vectors {
        g_beta[vector] = own.a;
        g_gamma[vector] = own.b;
        sums_out[vector] = own.a;
        sums_out[bn.vectors + vector] = own.b;
    }
}

// The gradient of y's vec4f `at` from that of what was made of it.
fn of_batch(at: u32, g: vec4f) -> vec4f {
    let c = at % bn.vectors;
    let y_normal = normal(at, c);
    let mean_g = sums[c] * bn.inv_rows;
    let mean_g_normal = sums[bn.vectors + c] * bn.inv_rows;
    return gamma[c] * inv_std[c] * (masked(g, c, y_normal) - mean_g - y_normal * mean_g_normal);
}

fn of_frozen(at: u32, g: vec4f) -> vec4f {
    let c = at % bn.vectors;
    return gamma[c] * inv_std[c] * masked(g, c, normal(at, c));
}

@compute @workgroup_size(64)
fn batch(@builtin(local_invocation_index) thread: u32, @builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u) {
    let at = (group.x + group.y * groups.x) * 64u + thread;
    if at < bn.count {
        g_y[at] = of_batch(at, g_x[at]);
    }
}

@compute @workgroup_size(64)
fn batch_in_place(@builtin(local_invocation_index) thread: u32, @builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u) {
    let at = (group.x + group.y * groups.x) * 64u + thread;
    if at < bn.count {
        g_y[at] = of_batch(at, g_y[at]);
    }
}

@compute @workgroup_size(64)
fn frozen(@builtin(local_invocation_index) thread: u32, @builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u) {
    let at = (group.x + group.y * groups.x) * 64u + thread;
    if at < bn.count {
        g_y[at] = of_frozen(at, g_x[at]);
    }
}

@compute @workgroup_size(64)
fn frozen_in_place(@builtin(local_invocation_index) thread: u32, @builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u) {
    let at = (group.x + group.y * groups.x) * 64u + thread;
    if at < bn.count {
        g_y[at] = of_frozen(at, g_y[at]);
    }
}
