//! Loops over independent pieces: on every core natively, one after another where there are no threads; and the widest
//! vectors that the processor has.

use multiversion::multiversion;

/// Calls `f`, compiled once for each width of vectors; what of `f` is inlined here runs on the widest ones, so mark closure and
/// functions `#[inline(always)]`. Nothing is fused or reordered: all widths give the same bits.
#[multiversion(targets(
    "x86_64+avx512f+avx512bw+avx512dq+avx512vl+avx2+bmi1+bmi2+lzcnt+popcnt",
    "x86_64+avx2+bmi1+bmi2+lzcnt+popcnt",
))]
pub fn wide<R>(f: impl FnOnce() -> R) -> R {
    f()
}

/// Starts the threads, and has each of them ask for memory: what an allocator sets aside for a thread is then taken before
/// anyone asks how much is left.
#[cfg(not(target_arch = "wasm32"))]
pub fn start() {
    rayon::broadcast(|_| drop(std::hint::black_box(Box::new(0u8))));
}

/// Runs `f`, whose loops are to run on every core, on one of the threads that they run on: a thread from outside would have to
/// wake them all for each loop, and be woken at its end.
#[cfg(not(target_arch = "wasm32"))]
pub fn inside<R: Send>(f: impl FnOnce() -> R + Send) -> R {
    rayon::scope(|_| f())
}

/// Runs `f`.
#[cfg(target_arch = "wasm32")]
pub fn inside<R>(f: impl FnOnce() -> R) -> R {
    f()
}

/// How many threads work at once.
#[cfg(not(target_arch = "wasm32"))]
pub fn threads() -> usize {
    rayon::current_num_threads()
}

/// How many threads work at once.
#[cfg(target_arch = "wasm32")]
pub fn threads() -> usize {
    1
}

/// There are no threads to start.
#[cfg(target_arch = "wasm32")]
pub fn start() {}

/// Runs `f` on every item.
#[cfg(not(target_arch = "wasm32"))]
pub fn for_each<I: Send>(items: Vec<I>, f: impl Fn(I) + Sync + Send) {
    use rayon::prelude::*;
    items.into_par_iter().for_each(
        #[inline(always)]
        |item| {
            wide(
                #[inline(always)]
                || f(item),
            )
        },
    );
}

/// Runs `f` on every item.
#[cfg(target_arch = "wasm32")]
pub fn for_each<I>(items: Vec<I>, f: impl Fn(I)) {
    items.into_iter().for_each(f);
}

/// [`for_each`]; on this thread alone where there is too `little` to do to wake the others for it.
#[inline(always)]
pub fn for_each_unless<I: Send>(little: bool, items: impl Iterator<Item = I>, f: impl Fn(I) + Sync + Send) {
    if !little {
        return for_each(items.collect(), f);
    }
    wide(
        #[inline(always)]
        || {
            // `Iterator::for_each` would be a function of its own, with the narrowest vectors.
            for item in items {
                f(item);
            }
        },
    );
}

/// [`for_each`] with scratch memory that `new` makes and many items share.
#[cfg(not(target_arch = "wasm32"))]
pub fn for_each_with<I: Send, S>(
    items: Vec<I>,
    new: impl Fn() -> S + Sync + Send,
    f: impl Fn(&mut S, I) + Sync + Send,
) {
    use rayon::prelude::*;
    items.into_par_iter().for_each_init(
        new,
        #[inline(always)]
        |scratch, item| {
            wide(
                #[inline(always)]
                || f(scratch, item),
            )
        },
    );
}

/// [`for_each`] with scratch memory that `new` makes and all items share.
#[cfg(target_arch = "wasm32")]
pub fn for_each_with<I, S>(items: Vec<I>, new: impl Fn() -> S, f: impl Fn(&mut S, I)) {
    let mut scratch = new();
    items.into_iter().for_each(|item| f(&mut scratch, item));
}

/// Cuts `[steps][rows][row]` into blocks of `block` rows; each block is its slice of every timestep, so that blocks can be
/// written at the same time.
pub fn row_blocks<X>(out: &mut [X], steps: usize, row: usize, block: usize) -> Vec<Vec<&mut [X]>> {
    let a_step = out.len() / steps.max(1);
    let mut blocks: Vec<Vec<&mut [X]>> = Vec::new();
    for of_step in out.chunks_mut(a_step.max(1)) {
        for (i, slice) in of_step.chunks_mut((block * row).max(1)).enumerate() {
            match blocks.get_mut(i) {
                Some(b) => b.push(slice),
                None => blocks.push(vec![slice]),
            }
        }
    }
    blocks
}
