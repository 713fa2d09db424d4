// gradient_norm: the norm of a gradient that lies in several shards, and the factor that clips it to max_norm:
//   norm = sqrt(Σ g²),   factor = min(1, max_norm / (norm + 1e-6)), and 1 where max_norm = 0
// A gradient that is not finite, or whose sum of squares is not in f32, gives factor = 0, norm = infinity and skipped = 1.
//
// partial: x, y (folded) groups of a block of 4096 vec4f of one shard; thread i owns vec4f i, + 256, ... of the block.
// combine: one group; thread i owns the blocks i, + 256, ... of all shards.
// Order: ascending by 256 within a thread, four lanes apart; then the lanes; then a tree in workgroup memory.
// Whether a value is finite is told from its bits, and from there on a sum of -1 says that one was not: WGSL may assume of
// arithmetic and comparisons that they never see a NaN.
// Uses: step.

struct GradientNorm {
    len: u32,           // elements of the shard
    first_partial: u32, // of the shard's blocks
    partials: u32,      // blocks: of the shard (partial), of all shards (combine)
    max_norm: f32,
}

@group(0) @binding(0) var<storage, read> gradient: array<vec4f>;          // [len/4]
@group(0) @binding(1) var<storage, read_write> partials_out: array<f32>;  // [blocks of all shards]
@group(0) @binding(2) var<storage, read> partials: array<f32>;            // [blocks of all shards]
@group(0) @binding(3) var<storage, read_write> clip_out: vec4u;           // [factor, norm, skipped, 0], the bits of floats
@group(0) @binding(4) var<uniform> norm: GradientNorm;

const THREADS: u32 = 256u;
const BLOCK: u32 = 4096u; // vec4f
const EXPONENT: u32 = 0x7f800000u;

var<workgroup> staged: array<f32, 256>;

fn is_finite(x: f32) -> bool {
    return (bitcast<u32>(x) & EXPONENT) != EXPONENT;
}

// The sum of two sums, -1 if either is.
fn join(a: f32, b: f32) -> f32 {
    return select(a + b, -1.0, a < 0.0 || b < 0.0);
}

// The join of every thread's sum, valid in thread 0. To be called by every thread.
fn join_threads(thread: u32, own: f32) -> f32 {
    staged[thread] = own;
    workgroupBarrier();
    for (var width = THREADS / 2u; width > 0u; width /= 2u) {
        if thread < width {
            staged[thread] = join(staged[thread], staged[thread + width]);
        }
        workgroupBarrier();
    }
    return staged[0];
}

@compute @workgroup_size(256)
fn partial(@builtin(local_invocation_index) thread: u32, @builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u) {
    let block = group.x + group.y * groups.x;
    var sums = vec4f();
    var not_finite = false;
    for (var i = thread; i < BLOCK; i += THREADS) {
        let vector = block * BLOCK + i;
        if 4u * vector < norm.len {
            let value = select(vec4f(), gradient[vector], lanes_below(vector, norm.len));
            not_finite = not_finite || any((bitcast<vec4u>(value) & vec4u(EXPONENT)) == vec4u(EXPONENT));
            sums += value * value;
        }
    }
    let own = select((sums.x + sums.y) + (sums.z + sums.w), -1.0, not_finite);
    let sum = join_threads(thread, own);
    if thread == 0u && block < norm.partials {
        partials_out[norm.first_partial + block] = select(-1.0, sum, is_finite(sum));
    }
}

@compute @workgroup_size(256)
fn combine(@builtin(local_invocation_index) thread: u32) {
    var own = 0.0;
    for (var block = thread; block < norm.partials; block += THREADS) {
        own = join(own, partials[block]);
    }
    let sum = join_threads(thread, own);
    if thread == 0u {
        if sum < 0.0 || !is_finite(sum) {
            clip_out = vec4u(0u, EXPONENT, bitcast<u32>(1.0), 0u);
        } else {
            let root = sqrt(sum);
            let factor = select(min(1.0, norm.max_norm / (root + 1e-6)), 1.0, norm.max_norm == 0.0);
            clip_out = vec4u(bitcast<u32>(factor), bitcast<u32>(root), 0u, 0u);
        }
    }
}
