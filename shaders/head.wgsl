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
            let count = min(64u, head.channels - first);
            var at = first * head.classes + class_index;
            var c = 0u;
            for (; c + 8u <= count; c += 8u) {
                // Loaded before the first is needed: a load takes as long as tens of additions.
                let w0 = weights[at];
                let w1 = weights[at + head.classes];
                let w2 = weights[at + 2u * head.classes];
                let w3 = weights[at + 3u * head.classes];
                let w4 = weights[at + 4u * head.classes];
                let w5 = weights[at + 5u * head.classes];
                let w6 = weights[at + 6u * head.classes];
                let w7 = weights[at + 7u * head.classes];
                sum += w0 * staged[c];
                sum += w1 * staged[c + 1u];
                sum += w2 * staged[c + 2u];
                sum += w3 * staged[c + 3u];
                sum += w4 * staged[c + 4u];
                sum += w5 * staged[c + 5u];
                sum += w6 * staged[c + 6u];
                sum += w7 * staged[c + 7u];
                at += 8u * head.classes;
            }
            for (; c < count; c += 1u) {
                sum += weights[at] * staged[c];
                at += head.classes;
            }
        }
        workgroupBarrier();
    }
    if class_index < head.classes {
        logits_out[image * head.classes + class_index] = sum + bias[class_index];
    }
}
