// head: logits[b, k] = bias[k] + Σ_c W[k, c] rate[b, c], the one real-valued layer.
//
// Grid: x groups of 64 classes, y and z (folded) image. The image's rates pass through workgroup memory 64 at a time; thread i
// owns class 64 x + i and reads its weights side by side with its neighbours.
// Order: c ascending, the bias last.

struct Head {
    batch: u32,
    channels: u32, // D
    classes: u32,
    stride: u32,   // floats of a rate row: D rounded up to 4
}

@group(0) @binding(0) var<storage, read> rate: array<f32>;              // [B][stride]
@group(0) @binding(1) var<storage, read> weights: array<f32>;           // [D][classes]
@group(0) @binding(2) var<storage, read> bias: array<f32>;              // [classes]
@group(0) @binding(3) var<storage, read_write> logits_out: array<f32>;  // [B][classes]
@group(0) @binding(4) var<uniform> head: Head;

var<workgroup> staged: array<f32, 64>;

@compute @workgroup_size(64)
fn main(@builtin(local_invocation_index) thread: u32, @builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u) {
    let image = group.y + group.z * groups.y;
    if image >= head.batch {
        return;
    }
    let class_index = group.x * 64u + thread;
    var sum = 0.0;
    for (var first = 0u; first < head.channels; first += 64u) {
        if first + thread < head.channels {
            staged[thread] = rate[image * head.stride + first + thread];
        }
        workgroupBarrier();
        if class_index < head.classes {
            for (var c = 0u; c < min(64u, head.channels - first); c += 1u) {
                sum += weights[(first + c) * head.classes + class_index] * staged[c];
            }
        }
        workgroupBarrier();
    }
    if class_index < head.classes {
        logits_out[image * head.classes + class_index] = sum + bias[class_index];
    }
}
