//! Batches of training pictures, shuffled, augmented and prepared ahead of their use.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;

use super::augment::{Augmentation, Canvas, targets};
use super::dataset::{Dataset, Store};
use super::picture::Picture;
use super::random::Random;
use crate::{Error, Result};

/// What a generator is for, the last word of its seed.
#[derive(Clone, Copy)]
enum Draw {
    Order,
    Picture,
    Mixing,
}

/// How a [`Loader`] makes batches.
#[derive(Clone, Debug)]
pub struct LoaderOptions {
    /// Pictures in a batch, at least 1.
    pub batch: usize,
    /// What every random choice follows from, together with the epoch.
    pub seed: u64,
    /// Whether each epoch has an order of its own, instead of the set's.
    pub shuffle: bool,
    /// Whether the last pictures of an epoch are left out where they fill no batch.
    pub drop_last: bool,
    /// What is done to the pictures.
    pub augmentation: Augmentation,
    /// The part of each target, 0 to 1, that is spread evenly over all classes (Szegedy et al., arXiv:1512.00567).
    pub label_smoothing: f64,
    /// Threads that prepare batches, 1 to 64. The batches do not depend on it.
    pub threads: usize,
    /// How many finished batches may wait, besides the one each thread is working on; rounded up to a multiple of
    /// `threads`.
    pub ahead: usize,
    /// The most bytes of decoded pictures kept in memory from one epoch to the next, so that each file is decoded
    /// once; those beyond are decoded again. Without `random_resized_crop` a picture is kept at the model's size.
    /// Sets that are in memory anyway (IDX, CIFAR) at the model's size are not kept twice.
    pub cache_bytes: u64,
}

impl Default for LoaderOptions {
    /// Batches of 128, shuffled, without an incomplete last one and without augmentation; one thread, two batches
    /// ahead, 1 GiB of pictures.
    fn default() -> Self {
        LoaderOptions {
            batch: 128,
            seed: 0,
            shuffle: true,
            drop_last: true,
            augmentation: Augmentation::default(),
            label_smoothing: 0.0,
            threads: 1,
            ahead: 2,
            cache_bytes: 1 << 30,
        }
    }
}

/// A batch of training pictures.
#[derive(Clone, Debug, PartialEq)]
pub struct Batch {
    /// Normalised pixels, channel-last, `[B][H][W][C]`.
    pub pixels: Vec<f32>,
    /// Class probabilities, `[B][classes]`; each row's sum is 1.
    pub targets: Vec<f32>,
    /// Labels before mixing, `[B]`.
    pub labels: Vec<i64>,
    /// The pictures' places in the data set, `[B]`.
    pub indices: Vec<usize>,
}

/// Makes batches of a data set's pictures, epoch by epoch.
///
/// A batch depends on the data set, the options but for `threads`, `ahead` and `cache_bytes`, the epoch and its number
/// in it, and on nothing else: neither on the batches before it nor on the machine, as far as a JPEG decoder gives the
/// same everywhere. So training can go on at any batch.
/// Random draws are the same for a picture in an epoch wherever it comes; mixing goes by the number of the batch.
pub struct Loader {
    shared: Arc<Shared>,
}

impl Loader {
    /// A loader of these pictures.
    ///
    /// # Errors
    /// [`Error::Input`] if an option is out of its range, or the set is smaller than a batch and `drop_last` is set;
    /// [`Error::Config`] for the augmentation's, see [`Augmentation::validate`].
    pub fn new(dataset: Arc<Dataset>, options: LoaderOptions) -> Result<Self> {
        options.augmentation.validate()?;
        let LoaderOptions { batch, threads, label_smoothing, .. } = options;
        if batch == 0 || !(1..=64).contains(&threads) || !(0.0..=1.0).contains(&label_smoothing) {
            return Err(Error::Input(format!(
                "a batch of {batch}, {threads} loader threads and label smoothing {label_smoothing}: the batch must be \
                 at least 1, threads 1 to 64, and smoothing 0 to 1"
            )));
        }
        if options.drop_last && dataset.len() < batch {
            let n = dataset.len();
            return Err(Error::Input(format!("a batch of {batch} is more than the {n} pictures there are; lower it")));
        }
        let [_, _, side] = dataset.shape();
        let in_memory = matches!(dataset.store, Store::Raw { width, height, .. }
            if options.augmentation.random_resized_crop.is_some() || (width, height) == (side, side));
        let slots = if in_memory { 0 } else { dataset.len() };
        let cache = Cache {
            limit: options.cache_bytes,
            used: AtomicU64::new(0),
            pictures: (0..slots).map(|_| OnceLock::new()).collect(),
        };
        Ok(Loader { shared: Arc::new(Shared { dataset, options, cache }) })
    }

    /// How many batches an epoch has; at least 1.
    pub fn batches(&self) -> usize {
        let (n, batch) = (self.shared.dataset.len(), self.shared.options.batch);
        if self.shared.options.drop_last { n / batch } else { n.div_ceil(batch) }
    }

    /// The data set it loads from.
    pub fn dataset(&self) -> &Arc<Dataset> {
        &self.shared.dataset
    }

    /// The options it was made with.
    pub fn options(&self) -> &LoaderOptions {
        &self.shared.options
    }

    /// The batches of an epoch from number `from_batch` on, in order, prepared by threads that this call starts.
    ///
    /// The first error ends it: that of [`Dataset::picture`] for a picture that cannot be decoded, [`Error::Input`] if
    /// no thread can be started. Dropping it stops its threads after the picture each is at, and waits for them.
    ///
    /// # Panics
    /// The iterator does if a thread has.
    pub fn epoch(&self, epoch: u64, from_batch: usize) -> Epoch {
        let LoaderOptions { threads, ahead, shuffle, .. } = self.shared.options;
        let batches = self.batches();
        let first = from_batch.min(batches);
        let mut order: Vec<usize> = (0..self.shared.dataset.len()).collect();
        if shuffle {
            self.shared.random(epoch, 0, Draw::Order).shuffle(&mut order);
        }
        let order: Arc<[usize]> = order.into();
        let mut out =
            Epoch { workers: Vec::new(), first, next: first, end: batches, stop: Arc::default(), error: None };
        // Thread i makes every `step`th batch from the i-th on, so that the next one is always known to come from it.
        let step = threads.min(batches - first);
        for i in 0..step {
            let (sender, receiver) = sync_channel(ahead.min(batches).div_ceil(step));
            let (shared, order, stop) = (self.shared.clone(), order.clone(), out.stop.clone());
            let run = move || {
                for number in (first + i..batches).step_by(step) {
                    if !shared.send(&sender, epoch, number, &order, &stop) {
                        break;
                    }
                }
            };
            match std::thread::Builder::new().name(format!("loader {i}")).spawn(run) {
                Ok(thread) => out.workers.push(Worker { batches: receiver, thread }),
                Err(e) => {
                    out.error = Some(Error::Input(format!("no thread could be started to load pictures: {e}")));
                    break;
                }
            }
        }
        out
    }
}

/// A thread, and where its batches arrive.
struct Worker {
    batches: Receiver<Result<Batch>>,
    thread: JoinHandle<()>,
}

/// The batches of an epoch, see [`Loader::epoch`].
pub struct Epoch {
    workers: Vec<Worker>,
    first: usize,
    next: usize,
    end: usize,
    stop: Arc<AtomicBool>,
    error: Option<Error>,
}

impl Epoch {
    /// Ends the threads and waits for them; what a thread that panicked died of.
    fn close(&mut self) -> Option<Box<dyn std::any::Any + Send>> {
        self.end = self.next;
        self.stop.store(true, Ordering::Relaxed);
        // Without receivers none waits to send.
        let threads: Vec<JoinHandle<()>> = self.workers.drain(..).map(|w| w.thread).collect();
        threads.into_iter().filter_map(|thread| thread.join().err()).last()
    }
}

impl Iterator for Epoch {
    type Item = Result<Batch>;

    fn next(&mut self) -> Option<Result<Batch>> {
        if self.next == self.end {
            return None;
        }
        if let Some(error) = self.error.take() {
            self.close();
            return Some(Err(error));
        }
        let worker = &self.workers[(self.next - self.first) % self.workers.len()];
        match worker.batches.recv() {
            Ok(Ok(batch)) => {
                self.next += 1;
                Some(Ok(batch))
            }
            Ok(Err(error)) => {
                self.close();
                Some(Err(error))
            }
            // It has stopped before its last batch.
            Err(_) => match self.close() {
                Some(panic) => std::panic::resume_unwind(panic),
                None => unreachable!("a loader's thread goes on to its last batch, an error or a panic"),
            },
        }
    }
}

impl Drop for Epoch {
    fn drop(&mut self) {
        self.close();
    }
}

/// Decoded pictures, kept until they take `limit` bytes.
struct Cache {
    limit: u64,
    used: AtomicU64,
    /// For each picture of the set; none if nothing is kept.
    pictures: Vec<OnceLock<Box<Picture>>>,
}

impl Cache {
    fn keep(&self, index: usize, picture: Picture) {
        let Some(slot) = self.pictures.get(index) else { return };
        let size = (picture.pixels().len() + size_of::<Picture>()) as u64;
        let more = |used: u64| used.checked_add(size).filter(|&sum| sum <= self.limit);
        if self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok()
            && slot.set(Box::new(picture)).is_err()
        {
            // Another epoch's thread was faster.
            self.used.fetch_sub(size, Ordering::Relaxed);
        }
    }
}

/// What threads need to make batches.
struct Shared {
    dataset: Arc<Dataset>,
    options: LoaderOptions,
    cache: Cache,
}

impl Shared {
    fn random(&self, epoch: u64, index: usize, what: Draw) -> Random {
        Random::of([self.options.seed, epoch, index as u64, what as u64])
    }

    /// Makes a batch and sends it; whether another one is wanted.
    fn send(
        &self,
        to: &SyncSender<Result<Batch>>,
        epoch: u64,
        number: usize,
        order: &[usize],
        stop: &AtomicBool,
    ) -> bool {
        let batch = self.options.batch;
        let from = number * batch;
        let indices = &order[from..order.len().min(from.saturating_add(batch))];
        match self.batch(epoch, number, indices, stop) {
            Ok(Some(batch)) => to.send(Ok(batch)).is_ok(),
            Ok(None) => false,
            Err(error) => {
                // Without a receiver nobody wants to know.
                let _ = to.send(Err(error));
                false
            }
        }
    }

    /// The batch of these pictures; none if told to stop.
    fn batch(&self, epoch: u64, number: usize, indices: &[usize], stop: &AtomicBool) -> Result<Option<Batch>> {
        let [channels, _, side] = self.dataset.shape();
        let augmentation = &self.options.augmentation;
        let preparation = &self.dataset.preparation;
        let fill = preparation.mean_colour();
        let each = side * side * channels;
        let mut pixels = vec![0.0; indices.len() * each];
        let mut canvas = Canvas::new(side, channels);
        for (out, &index) in pixels.chunks_exact_mut(each).zip(indices) {
            if stop.load(Ordering::Relaxed) {
                return Ok(None);
            }
            let mut random = self.random(epoch, index, Draw::Picture);
            match self.cache.pictures.get(index).and_then(OnceLock::get) {
                Some(picture) => augmentation.draw(picture, &mut canvas, fill, &mut random),
                None => {
                    let picture = self.picture(index)?;
                    augmentation.draw(&picture, &mut canvas, fill, &mut random);
                    self.cache.keep(index, picture);
                }
            }
            preparation.normalise(&canvas.pixels, out);
            if let Some(erasing) = &augmentation.erasing {
                erasing.apply(out, side, &mut random);
            }
        }
        let labels: Vec<i64> = indices.iter().map(|&i| self.dataset.labels[i]).collect();
        let mut targets = targets(&labels, self.dataset.num_classes(), self.options.label_smoothing);
        if let Some(mixing) = augmentation.mixing.as_ref().filter(|m| m.epochs == 0 || epoch < m.epochs) {
            let mut random = self.random(epoch, number, Draw::Mixing);
            mixing.apply(&mut pixels, side, &mut targets, labels.len(), &mut random);
        }
        Ok(Some(Batch { pixels, targets, labels, indices: indices.to_vec() }))
    }

    /// A picture of the model's channels, and at its size unless a part of it will be taken.
    fn picture(&self, index: usize) -> Result<Picture> {
        let (picture, preparation) = (self.dataset.picture(index)?, &self.dataset.preparation);
        Ok(match self.options.augmentation.random_resized_crop {
            Some(_) => preparation.converted(&picture),
            None => preparation.fitted(&picture),
        })
    }
}
