//! Memory that begins where cache lines and the widest vectors do.

use std::fmt::{Debug, Formatter};
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};

use bytemuck::{Pod, Zeroable};

/// A cache line.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C, align(64))]
struct Line([u32; 16]);

/// Elements that begin at a multiple of 64 bytes. Of a vector that does not, every 64 bytes read touch two cache lines, and
/// products of spikes take half as long again.
#[derive(Clone)]
pub struct Aligned<X> {
    lines: Vec<Line>,
    len: usize,
    of: PhantomData<X>,
}

/// The lines that `len` elements take.
fn lines<X>(len: usize) -> usize {
    len.saturating_mul(size_of::<X>()).div_ceil(size_of::<Line>())
}

impl<X: Pod> Aligned<X> {
    /// `len` zeros.
    pub fn zeros(len: usize) -> Self {
        Aligned { lines: vec![Line::zeroed(); lines::<X>(len)], len, of: PhantomData }
    }

    /// `len` zeros, or `None` if there is not as much memory.
    pub fn try_zeros(len: usize) -> Option<Self> {
        let mut memory = Vec::new();
        memory.try_reserve_exact(lines::<X>(len)).ok()?;
        memory.resize(lines::<X>(len), Line::zeroed());
        Some(Aligned { lines: memory, len, of: PhantomData })
    }

    /// The same memory as `len` elements of another type, made larger where it is too small; what they hold is not said.
    pub fn reuse<Y: Pod>(self, len: usize) -> Aligned<Y> {
        let mut memory = self.lines;
        if memory.len() < lines::<Y>(len) {
            memory.resize(lines::<Y>(len), Line::zeroed());
        }
        Aligned { lines: memory, len, of: PhantomData }
    }
}

impl<X> Default for Aligned<X> {
    fn default() -> Self {
        Aligned { lines: Vec::new(), len: 0, of: PhantomData }
    }
}

impl<X: Pod> Deref for Aligned<X> {
    type Target = [X];

    fn deref(&self) -> &[X] {
        &bytemuck::cast_slice(&self.lines)[..self.len]
    }
}

impl<X: Pod> DerefMut for Aligned<X> {
    fn deref_mut(&mut self) -> &mut [X] {
        &mut bytemuck::cast_slice_mut(&mut self.lines)[..self.len]
    }
}

impl<X: Pod> From<&[X]> for Aligned<X> {
    fn from(values: &[X]) -> Self {
        let mut aligned = Aligned::zeros(values.len());
        aligned.copy_from_slice(values);
        aligned
    }
}

impl<X: Pod> From<Vec<X>> for Aligned<X> {
    fn from(values: Vec<X>) -> Self {
        values.as_slice().into()
    }
}

impl<X> Debug for Aligned<X> {
    fn fmt(&self, f: &mut Formatter) -> std::fmt::Result {
        write!(f, "{} aligned elements", self.len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_aligned_and_holds_what_it_was_given() {
        for len in [0, 1, 15, 16, 17, 1000] {
            let values: Vec<f32> = (0..len).map(|i| i as f32).collect();
            let aligned = Aligned::from(values.clone());
            assert_eq!(*aligned, *values);
            assert!(aligned.as_ptr().addr().is_multiple_of(64));
            assert_eq!(*Aligned::<f64>::zeros(len), *vec![0.0; len]);
            let mut words: Aligned<u32> = aligned.reuse(len / 2);
            words.fill(7);
            assert_eq!(*words, *vec![7; len / 2]);
            assert_eq!(words.reuse::<f64>(len).len(), len);
        }
        assert!(Aligned::<f64>::try_zeros(usize::MAX).is_none());
    }
}
