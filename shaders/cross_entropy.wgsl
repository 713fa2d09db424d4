// cross_entropy: the loss of each image, and the gradient of the mean of the losses, for targets that add up to 1:
//   loss[b] = -Σ_k target[b, k] log softmax(logits[b])[k],   g_logits[b, k] = (softmax(logits[b])[k] - target[b, k]) / B
//   log softmax(x)[k] = (x[k] - max x) - log Σ_j exp(x[j] - max x)
//
// Grid: x, y (folded) image; a workgroup's 256 threads take the classes in turn, once for the maximum, once for the sum of
// exponentials, once for the results.
// Order: k ascending by 256 within a thread, then a tree in workgroup memory.

struct CrossEntropy {
    batch: u32,
    classes: u32,
    inv_batch: f32, // 1 / B
}

@group(0) @binding(0) var<storage, read> logits: array<f32>;          // [B][classes]
@group(0) @binding(1) var<storage, read> targets: array<f32>;         // [B][classes]
@group(0) @binding(2) var<storage, read_write> loss_out: array<f32>;  // [B]
@group(0) @binding(3) var<storage, read_write> g_logits: array<f32>;  // [B][classes]
@group(0) @binding(4) var<uniform> entropy: CrossEntropy;

const THREADS: u32 = 256u;

var<workgroup> staged: array<f32, 256>;

// The maximum of every thread's value, for every thread.
fn maximum(thread: u32, own: f32) -> f32 {
    // Nobody may still be reading the last result.
    workgroupBarrier();
    staged[thread] = own;
    workgroupBarrier();
    for (var width = THREADS / 2u; width > 0u; width /= 2u) {
        if thread < width {
            staged[thread] = max(staged[thread], staged[thread + width]);
        }
        workgroupBarrier();
    }
    return staged[0];
}

// The sum of every thread's value, for every thread.
fn total(thread: u32, own: f32) -> f32 {
    workgroupBarrier();
    staged[thread] = own;
    workgroupBarrier();
    for (var width = THREADS / 2u; width > 0u; width /= 2u) {
        if thread < width {
            staged[thread] += staged[thread + width];
        }
        workgroupBarrier();
    }
    return staged[0];
}

@compute @workgroup_size(256)
fn main(@builtin(local_invocation_index) thread: u32, @builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u) {
    let image = group.x + group.y * groups.x;
    if image >= entropy.batch {
        return;
    }
    let first = image * entropy.classes;
    var own_largest = logits[first];
    for (var k = thread; k < entropy.classes; k += THREADS) {
        own_largest = max(own_largest, logits[first + k]);
    }
    let largest = maximum(thread, own_largest);
    var own_sum = 0.0;
    for (var k = thread; k < entropy.classes; k += THREADS) {
        own_sum += exp(logits[first + k] - largest);
    }
    let sum = total(thread, own_sum);
    let log_sum = log(sum);
    var own_loss = 0.0;
    for (var k = thread; k < entropy.classes; k += THREADS) {
        let x = logits[first + k] - largest;
        let goal = targets[first + k];
        own_loss += goal * (log_sum - x);
        g_logits[first + k] = (exp(x) / sum - goal) * entropy.inv_batch;
    }
    let loss = total(thread, own_loss);
    if thread == 0u {
        loss_out[image] = loss;
    }
}
