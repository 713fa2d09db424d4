// head_backward: the gradient of logits[b, k] = bias[k] + Σ_c W[c, k] rate[b, c]:
//   g_W[c, k] = Σ_b rate[b, c] g_logits[b, k],   g_bias[k] = Σ_b g_logits[b, k],   g_rate[b, c] = Σ_k g_logits[b, k] W[c, k]
//
// of_weights: grid x groups of 64 classes, y and z (folded) vec4f of channels, after the last of which comes the bias; a thread
//          owns one class of four channels. Order: b ascending.
// of_input: grid x vec4f of channels, y and z (folded) image; a workgroup's 64 threads take the classes in turn.
//          Order: k ascending by 64 within a thread, then a tree in workgroup memory.

struct HeadBackward {
    batch: u32,
    channels: u32, // D
    classes: u32,
    vectors: u32,  // vec4f of a rate row: ceil(D / 4)
}

@group(0) @binding(0) var<storage, read> rate: array<vec4f>;            // [B][vectors]
@group(0) @binding(1) var<storage, read> weights: array<f32>;           // [D][classes]
@group(0) @binding(2) var<storage, read> g_logits: array<f32>;          // [B][classes]
@group(0) @binding(3) var<storage, read_write> g_weights: array<f32>;   // [D][classes]
@group(0) @binding(4) var<storage, read_write> g_bias: array<f32>;      // [classes]
@group(0) @binding(5) var<storage, read_write> g_rate: array<vec4f>;    // [B][vectors]
@group(0) @binding(6) var<uniform> head: HeadBackward;

var<workgroup> staged: array<vec4f, 64>;

@compute @workgroup_size(64)
fn of_weights(@builtin(local_invocation_index) thread: u32, @builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u) {
    let vector = group.y + group.z * groups.y;
    let class_index = group.x * 64u + thread;
    if class_index < head.classes && vector <= head.vectors {
        let is_bias = vector == head.vectors;
        var sum = vec4f();
        for (var image = 0u; image < head.batch; image += 1u) {
            let g = g_logits[image * head.classes + class_index];
            if is_bias {
                sum.x += g;
            } else {
                sum += rate[image * head.vectors + vector] * g;
            }
        }
        if is_bias {
            g_bias[class_index] = sum.x;
        } else {
            for (var i = 0u; i < min(4u, head.channels - 4u * vector); i += 1u) {
                g_weights[(4u * vector + i) * head.classes + class_index] = sum[i];
            }
        }
    }
}

@compute @workgroup_size(64)
fn of_input(@builtin(local_invocation_index) thread: u32, @builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u) {
    let image = group.y + group.z * groups.y;
    if image >= head.batch {
        return;
    }
    // A row past the last channel's is read as the last and comes to nothing.
    let c = min(vec4u(4u * group.x) + vec4u(0u, 1u, 2u, 3u), vec4u(head.channels - 1u));
    let exists = vec4u(4u * group.x) + vec4u(0u, 1u, 2u, 3u) < vec4u(head.channels);
    let first = c * head.classes;
    var sum = vec4f();
    for (var k = thread; k < head.classes; k += 64u) {
        let w = vec4f(weights[first.x + k], weights[first.y + k], weights[first.z + k], weights[first.w + k]);
        sum += w * g_logits[image * head.classes + k];
    }
    staged[thread] = sum;
    workgroupBarrier();
    for (var width = 32u; width > 0u; width /= 2u) {
        if thread < width {
            staged[thread] += staged[thread + width];
        }
        workgroupBarrier();
    }
    if thread == 0u {
        g_rate[image * head.vectors + group.x] = select(vec4f(), staged[0], exists);
    }
}
