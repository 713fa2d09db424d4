// One thread's share of (packed spikes) × (weights, f32 once unpacked), for GPUs, spike by spike: additions only, of what fires.
//   sum[t][o] = Σ_{k: bit(t, k)} weight[k][o]
// Threads: 128 = 128 / LANES tokens × LANES lanes. A thread owns STEP_BLOCK timesteps of its token × 4 outputs, or if WIDE two times
// four, 4 LANES apart. The lanes of a token go through the same k, those at which any of its timesteps fires, so that their loads
// of weights lie side by side and serve all timesteps, and their branches are taken together. The weights of four k are on their
// way at a time.
// Order: k ascending. A silent input adds nothing where lib/spike_product.wgsl adds +0: the same bits, as no sum here is -0.
// Of integers the same as lib/spike_product_int8.wgsl, while no sum exceeds 2^24.
// The kernel supplies
//   row_spikes(r, chunk) -> u32   32 input bits of this thread's timestep r (0..7) of the block
//   chunks() -> u32               chunks of 32 k
//   own_vector(i) -> u32          this thread's vec4f of outputs, i 0 or if WIDE 1
//   Stored, weights: array<Stored>   four weights of consecutive outputs as they are stored, [O/32][chunks][32 k][8]
//   unpacked(w: Stored) -> vec4f   the four as f32; done when they have arrived

override LANES: u32 = 32u; // of a token: 8, 16 or 32
override WIDE: bool = false;

var<private> sums_a: array<vec4f, 8>; // of the first four outputs
var<private> sums_b: array<vec4f, 8>; // of the second

// The lowest bit of `left`; 0 if there is none.
fn lowest(left: u32) -> u32 {
    return left & (0u - left);
}

// Where the weights at a k are, its bit being the one of `at_k` and its chunk's weights beginning at `first`. If there is no bit
// those of some k, which are added nowhere.
fn weights_at(first: u32, at_k: u32) -> u32 {
    return first + (firstLeadingBit(at_k) & 31u) * 8u;
}

// Where an output vector's weights of the first chunk are. A vector past the end reads the last one's; its sums are not stored.
fn first_weights(vector: u32) -> u32 {
    let existing = min(vector, (product.channels_out + 31u) / 32u * 8u - 1u);
    return existing / 8u * chunks() * 256u + existing % 8u;
}

// Leaves the sums of this thread's timesteps in `sums_a` and, if WIDE, `sums_b`.
fn spike_product() {
    var a0 = vec4f();
    var a1 = vec4f();
    var a2 = vec4f();
    var a3 = vec4f();
    var a4 = vec4f();
    var a5 = vec4f();
    var a6 = vec4f();
    var a7 = vec4f();
    var b0 = vec4f();
    var b1 = vec4f();
    var b2 = vec4f();
    var b3 = vec4f();
    var b4 = vec4f();
    var b5 = vec4f();
    var b6 = vec4f();
    var b7 = vec4f();
    let count = chunks();
    var first_a = first_weights(own_vector(0u));
    var first_b = first_weights(own_vector(1u));
    // The next chunk's spikes are on their way while this one's select.
    var next0 = row_spikes(0u, 0u);
    var next1 = 0u;
    var next2 = 0u;
    var next3 = 0u;
    var next4 = 0u;
    var next5 = 0u;
    var next6 = 0u;
    var next7 = 0u;
    if STEP_BLOCK > 1u {
        next1 = row_spikes(1u, 0u);
    }
    if STEP_BLOCK > 2u {
        next2 = row_spikes(2u, 0u);
        next3 = row_spikes(3u, 0u);
    }
    if STEP_BLOCK > 4u {
        next4 = row_spikes(4u, 0u);
        next5 = row_spikes(5u, 0u);
        next6 = row_spikes(6u, 0u);
        next7 = row_spikes(7u, 0u);
    }
    for (var chunk = 0u; chunk < count; chunk += 1u) {
        let r0 = next0;
        let r1 = next1;
        let r2 = next2;
        let r3 = next3;
        let r4 = next4;
        let r5 = next5;
        let r6 = next6;
        let r7 = next7;
        // The last chunk loads itself again.
        let next = min(chunk + 1u, count - 1u);
        next0 = row_spikes(0u, next);
        if STEP_BLOCK > 1u {
            next1 = row_spikes(1u, next);
        }
        if STEP_BLOCK > 2u {
            next2 = row_spikes(2u, next);
            next3 = row_spikes(3u, next);
        }
        if STEP_BLOCK > 4u {
            next4 = row_spikes(4u, next);
            next5 = row_spikes(5u, next);
            next6 = row_spikes(6u, next);
            next7 = row_spikes(7u, next);
        }
        var left = r0 | r1 | r2 | r3 | r4 | r5 | r6 | r7;
        while left != 0u {
            let k0 = lowest(left);
            left ^= k0;
            let k1 = lowest(left);
            left ^= k1;
            let k2 = lowest(left);
            left ^= k2;
            let k3 = lowest(left);
            left ^= k3;
            let stored0 = weights[weights_at(first_a, k0)];
            let stored1 = weights[weights_at(first_a, k1)];
            let stored2 = weights[weights_at(first_a, k2)];
            let stored3 = weights[weights_at(first_a, k3)];
            var wb0 = vec4f();
            var wb1 = vec4f();
            var wb2 = vec4f();
            var wb3 = vec4f();
            if WIDE {
                wb0 = unpacked(weights[weights_at(first_b, k0)]);
                wb1 = unpacked(weights[weights_at(first_b, k1)]);
                wb2 = unpacked(weights[weights_at(first_b, k2)]);
                wb3 = unpacked(weights[weights_at(first_b, k3)]);
            }
            let wa0 = unpacked(stored0);
            let wa1 = unpacked(stored1);
            let wa2 = unpacked(stored2);
            let wa3 = unpacked(stored3);
            if (r0 & k0) != 0u { a0 += wa0; if WIDE { b0 += wb0; } }
            if (r0 & k1) != 0u { a0 += wa1; if WIDE { b0 += wb1; } }
            if (r0 & k2) != 0u { a0 += wa2; if WIDE { b0 += wb2; } }
            if (r0 & k3) != 0u { a0 += wa3; if WIDE { b0 += wb3; } }
            if STEP_BLOCK > 1u {
                if (r1 & k0) != 0u { a1 += wa0; if WIDE { b1 += wb0; } }
                if (r1 & k1) != 0u { a1 += wa1; if WIDE { b1 += wb1; } }
                if (r1 & k2) != 0u { a1 += wa2; if WIDE { b1 += wb2; } }
                if (r1 & k3) != 0u { a1 += wa3; if WIDE { b1 += wb3; } }
            }
            if STEP_BLOCK > 2u {
                if (r2 & k0) != 0u { a2 += wa0; if WIDE { b2 += wb0; } }
                if (r2 & k1) != 0u { a2 += wa1; if WIDE { b2 += wb1; } }
                if (r2 & k2) != 0u { a2 += wa2; if WIDE { b2 += wb2; } }
                if (r2 & k3) != 0u { a2 += wa3; if WIDE { b2 += wb3; } }
                if (r3 & k0) != 0u { a3 += wa0; if WIDE { b3 += wb0; } }
                if (r3 & k1) != 0u { a3 += wa1; if WIDE { b3 += wb1; } }
                if (r3 & k2) != 0u { a3 += wa2; if WIDE { b3 += wb2; } }
                if (r3 & k3) != 0u { a3 += wa3; if WIDE { b3 += wb3; } }
            }
            if STEP_BLOCK > 4u {
                if (r4 & k0) != 0u { a4 += wa0; if WIDE { b4 += wb0; } }
                if (r4 & k1) != 0u { a4 += wa1; if WIDE { b4 += wb1; } }
                if (r4 & k2) != 0u { a4 += wa2; if WIDE { b4 += wb2; } }
                if (r4 & k3) != 0u { a4 += wa3; if WIDE { b4 += wb3; } }
                if (r5 & k0) != 0u { a5 += wa0; if WIDE { b5 += wb0; } }
                if (r5 & k1) != 0u { a5 += wa1; if WIDE { b5 += wb1; } }
                if (r5 & k2) != 0u { a5 += wa2; if WIDE { b5 += wb2; } }
                if (r5 & k3) != 0u { a5 += wa3; if WIDE { b5 += wb3; } }
                if (r6 & k0) != 0u { a6 += wa0; if WIDE { b6 += wb0; } }
                if (r6 & k1) != 0u { a6 += wa1; if WIDE { b6 += wb1; } }
                if (r6 & k2) != 0u { a6 += wa2; if WIDE { b6 += wb2; } }
                if (r6 & k3) != 0u { a6 += wa3; if WIDE { b6 += wb3; } }
                if (r7 & k0) != 0u { a7 += wa0; if WIDE { b7 += wb0; } }
                if (r7 & k1) != 0u { a7 += wa1; if WIDE { b7 += wb1; } }
                if (r7 & k2) != 0u { a7 += wa2; if WIDE { b7 += wb2; } }
                if (r7 & k3) != 0u { a7 += wa3; if WIDE { b7 += wb3; } }
            }
        }
        first_a += 256u;
        first_b += 256u;
    }
    sums_a = array<vec4f, 8>(a0, a1, a2, a3, a4, a5, a6, a7);
    sums_b = array<vec4f, 8>(b0, b1, b2, b3, b4, b5, b6, b7);
}
