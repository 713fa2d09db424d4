// spike_count: how many bits of a packed tensor are set, the numerator of a firing rate:
//   counts[slot * 64 + g] = Σ over the words of workgroup g of popcount(word)
// The host adds the 64 partial counts in 64 bits; a partial one fits 32 bits as a binding holds at most 2^30 of them a group.
//
// Grid: 64 workgroups; each strides over the words, then reduces its 64 threads' counts in workgroup memory.
// Order: integers, so any.

struct SpikeCount {
    words: u32, // of the tensor
    slot: u32,  // which 64 counts to write
}

@group(0) @binding(0) var<storage, read> spikes_in: array<u32>;        // [words]
@group(0) @binding(1) var<storage, read_write> counts_out: array<u32>; // [slots][64]
@group(0) @binding(2) var<uniform> count: SpikeCount;

var<workgroup> partial: array<u32, 64>;

@compute @workgroup_size(64)
fn main(@builtin(local_invocation_index) thread: u32, @builtin(workgroup_id) group: vec3u) {
    var sum = 0u;
    for (var i = group.x * 64u + thread; i < count.words; i += 4096u) {
        sum += countOneBits(spikes_in[i]);
    }
    partial[thread] = sum;
    workgroupBarrier();
    for (var width = 32u; width > 0u; width /= 2u) {
        if thread < width {
            partial[thread] += partial[thread + width];
        }
        workgroupBarrier();
    }
    if thread == 0u {
        counts_out[count.slot * 64u + group.x] = partial[0];
    }
}
