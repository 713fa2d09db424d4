// bn_statistics: what batch norm in training normalises by, over all T * B * H * W rows:
//   mean = Σ y / n,   variance = Σ (y - mean)² / n,   inv_std = 1 / sqrt(variance + eps)
// and the running values that inference will use, of which the variance is unbiased:
//   running += momentum (batch - running)
//
// partial: mean and Σ (y - mean)² of each block of rows, by Welford's update; combine: of all blocks, by Chan's formula, so
// that a mean far from zero costs no digits. Grid, threads and order: lib/channel_sums.wgsl.
// running: x groups of 64 vec4f of channels, a thread each, in place.
// Uses: channel_sums.

struct BnStatistics {
    rows: u32,       // T * B * H * W
    vectors: u32,    // vec4f of a row: ceil(C / 4)
    blocks: u32,     // of rows
    block_rows: u32,
    eps: f32,
    momentum: f32,
    unbias: f32,     // n / (n - 1)
}

@group(0) @binding(0) var<storage, read> y: array<vec4f>;                    // [T][B][H][W][C/4]
@group(0) @binding(1) var<storage, read_write> partials_out: array<vec4f>;   // [blocks][mean, sum of squares][C/4]
@group(0) @binding(2) var<storage, read> partials: array<vec4f>;             // [blocks][mean, sum of squares][C/4]
@group(0) @binding(3) var<storage, read_write> mean_out: array<vec4f>;       // [C/4]
@group(0) @binding(4) var<storage, read_write> variance_out: array<vec4f>;   // [C/4], biased
@group(0) @binding(5) var<storage, read_write> inv_std_out: array<vec4f>;    // [C/4]
@group(0) @binding(6) var<storage, read> mean: array<vec4f>;                 // [C/4]
@group(0) @binding(7) var<storage, read> variance: array<vec4f>;             // [C/4]
@group(0) @binding(8) var<storage, read_write> running_mean: array<vec4f>;   // [C/4]
@group(0) @binding(9) var<storage, read_write> running_var: array<vec4f>;    // [C/4]
@group(0) @binding(10) var<uniform> bn: BnStatistics;

// Chan: a the mean, b the sum of squared distances from it.
fn join(first: Sums, second: Sums) -> Sums {
    let count = first.count + second.count;
    let share = second.count / max(count, 1.0);
    let d = second.a - first.a;
    return Sums(count, first.a + d * share, first.b + second.b + d * d * (first.count * share));
}

@compute @workgroup_size(256)
fn partial(@builtin(local_invocation_index) thread: u32, @builtin(workgroup_id) group: vec3u) {
    let vector = group.x * LANES + thread % LANES;
    let first = group.y * bn.block_rows;
    let end = min(first + bn.block_rows, bn.rows);
    var sums = Sums();
    for (var row = first + thread / LANES; row < end; row += ROW_LANES) {
        sums.count += 1.0;
        if vector < bn.vectors {
            let value = y[row * bn.vectors + vector];
            let d = value - sums.a;
            // The first value is the mean itself: even d / 1 need not be exact.
            sums.a = select(sums.a + d / sums.count, value, sums.count == 1.0);
            sums.b += d * (value - sums.a);
        }
    }
    sums = join_lanes(thread, sums);
    if thread < LANES && vector < bn.vectors {
        partials_out[2u * group.y * bn.vectors + vector] = sums.a;
        partials_out[(2u * group.y + 1u) * bn.vectors + vector] = sums.b;
    }
}

@compute @workgroup_size(256)
fn combine(@builtin(local_invocation_index) thread: u32, @builtin(workgroup_id) group: vec3u) {
    let vector = group.x * LANES + thread % LANES;
    var sums = Sums();
    for (var block = thread / LANES; block < bn.blocks; block += ROW_LANES) {
        let count = f32(min(bn.block_rows, bn.rows - block * bn.block_rows));
        if vector < bn.vectors {
            let at = 2u * block * bn.vectors + vector;
            sums = join(sums, Sums(count, partials[at], partials[at + bn.vectors]));
        } else {
            sums.count += count;
        }
    }
    sums = join_lanes(thread, sums);
    if thread < LANES && vector < bn.vectors {
        let v = sums.b / f32(bn.rows);
        mean_out[vector] = sums.a;
        variance_out[vector] = v;
        inv_std_out[vector] = 1.0 / sqrt(v + bn.eps);
    }
}

@compute @workgroup_size(64)
fn running(@builtin(local_invocation_index) thread: u32, @builtin(workgroup_id) group: vec3u) {
    let vector = group.x * 64u + thread;
    if vector < bn.vectors {
        running_mean[vector] += bn.momentum * (mean[vector] - running_mean[vector]);
        running_var[vector] += bn.momentum * (variance[vector] * bn.unbias - running_var[vector]);
    }
}
