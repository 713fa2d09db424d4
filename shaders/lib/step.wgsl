// What the optimizer's kernels share: the scalars of a step, what gradient_norm says of its gradient, and lanes of a flat
// tensor. The kernel supplies its bindings and decides what a lane is for.

// Uploaded before each step.
struct Step {
    lr: f32,
    keep: f32,             // 1 - lr * weight_decay
    correction1: f32,      // 1 / (1 - beta1^n), n the step's number from 1
    correction2: f32,      // 1 / (1 - beta2^n)
    ema_decay: f32,
    accumulate_keep: f32,  // 0 for the first micro-batch of a step, 1 after it
    accumulate_share: f32, // 1 / micro-batches
    weight_decay: f32,
}

struct Clip {
    factor: f32,  // the gradient is to be multiplied by
    norm: f32,
    skipped: f32, // 1 where the gradient is not finite and the step must change nothing
    unused: f32,
}

// Which elements of vec4f number `vector` lie below `end`.
fn lanes_below(vector: u32, end: u32) -> vec4<bool> {
    return vec4u(4u * vector) + vec4u(0u, 1u, 2u, 3u) < vec4u(end);
}
