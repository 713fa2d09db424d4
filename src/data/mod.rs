//! Pictures and data sets: from files to a model's input.
//!
//! [`Picture`] and [`Preparation`] turn one picture file into a model's input; [`Dataset`] serves the labelled
//! pictures of a split of MNIST-like or CIFAR files, of class folders, or of an archive of them; `Loader` makes a
//! training set's shuffled and augmented batches.

#[cfg(all(feature = "data", not(target_arch = "wasm32")))]
mod augment;
#[cfg(all(feature = "data", not(target_arch = "wasm32")))]
mod cifar;
#[cfg(all(feature = "data", not(target_arch = "wasm32")))]
mod classes;
#[cfg(all(feature = "data", not(target_arch = "wasm32")))]
mod dataset;
#[cfg(all(feature = "data", not(target_arch = "wasm32")))]
mod decode;
#[cfg(all(feature = "data", not(target_arch = "wasm32")))]
mod idx;
#[cfg(all(feature = "data", not(target_arch = "wasm32")))]
mod loader;
mod picture;
#[cfg(all(feature = "data", not(target_arch = "wasm32")))]
mod random;

#[cfg(all(feature = "data", not(target_arch = "wasm32")))]
pub use augment::{Affine, Augmentation, ColourJitter, Erasing, Filling, Mixing, RandAugment, RandomResizedCrop};
#[cfg(all(feature = "data", not(target_arch = "wasm32")))]
pub use classes::MAX_ARCHIVE_BYTES;
#[cfg(all(feature = "data", not(target_arch = "wasm32")))]
pub use dataset::{Dataset, MAX_SET_BYTES, Split};
#[cfg(all(feature = "data", not(target_arch = "wasm32")))]
pub use decode::{MAX_BYTES, MAX_SIDE};
#[cfg(all(feature = "data", not(target_arch = "wasm32")))]
pub use loader::{Batch, Epoch, Loader, LoaderOptions};
pub use picture::{Fit, Invert, Picture, Preparation};
