// Sums over all rows of a tensor [rows][vectors] vec4f, channel by channel, in two dispatches without atomics.
//   partial  grid: x groups of 8 vec4f of channels, y blocks of `block_rows` rows; thread i owns vec4f i % 8 of the group and
//            the block's rows i / 8, + 32, ...
//   combine  grid: x as above; thread i owns the blocks i / 8, + 32, ...
// Either way 32 threads end with a pair of vec4f for the same channels, which a tree in workgroup memory joins.
// Order: rows or blocks ascending by 32 within a thread, then the tree: the same on every run.
// The kernel supplies its bindings and join(first, second), the pair for two disjoint sets of rows.

const LANES: u32 = 8u;      // vec4f of channels a workgroup
const ROW_LANES: u32 = 32u; // threads that share them

struct Sums {
    count: f32, // rows
    a: vec4f,
    b: vec4f,
}

var<workgroup> staged_count: array<f32, 32>;
var<workgroup> staged_a: array<vec4f, 256>; // [32][8]
var<workgroup> staged_b: array<vec4f, 256>;

// The join of all 32 row lanes, valid in row lane 0. To be called by every thread.
fn join_lanes(thread: u32, own: Sums) -> Sums {
    let row_lane = thread / LANES;
    var sums = own;
    for (var width = ROW_LANES / 2u; width > 0u; width /= 2u) {
        if row_lane >= width && row_lane < 2u * width {
            staged_a[thread] = sums.a;
            staged_b[thread] = sums.b;
            if thread % LANES == 0u {
                staged_count[row_lane] = sums.count;
            }
        }
        workgroupBarrier();
        // The sender's place is not written again: the next round's senders are of the lower half.
        if row_lane < width {
            let at = thread + width * LANES;
            sums = join(sums, Sums(staged_count[row_lane + width], staged_a[at], staged_b[at]));
        }
    }
    return sums;
}
