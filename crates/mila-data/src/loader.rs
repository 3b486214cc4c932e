//! Batches of an epoch, prefetched by worker threads.
//!
//! What a batch holds depends on (source, options, epoch) and never on the number of threads: the order is a shuffle keyed
//! by (seed, epoch), batch `b` is a fixed piece of it, and each sample's augmentation is keyed by (seed, epoch, sample).
//! Worker `t` of `T` makes the batches `t, t + T, ..` and sends them through a channel of its own with a bounded number of
//! places; the consumer takes from the channels in turn, which restores the order without a lock.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;

use crate::augment::Augment;
use crate::decode::{Limits, decode_file};
use crate::error::{Error, Result};
use crate::folder::Samples;
use crate::picture::Picture;
use crate::rng::Rng;
use crate::transform::EvalTransform;

/// Where the pictures are.
#[derive(Debug, Clone)]
pub enum ImageSource {
    /// In files.
    Folder(Samples),
    /// In memory, with one class index per picture.
    Memory {
        /// The pictures, of any sizes.
        pictures: Vec<Picture>,
        /// The class of each picture.
        labels: Vec<u32>,
    },
}

impl ImageSource {
    /// The number of samples.
    pub fn len(&self) -> usize {
        match self {
            Self::Folder(samples) => samples.items.len(),
            Self::Memory { pictures, .. } => pictures.len(),
        }
    }

    /// Whether there is no sample.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn label(&self, index: usize) -> u32 {
        match self {
            Self::Folder(samples) => samples.items[index].class,
            Self::Memory { labels, .. } => labels[index],
        }
    }

    /// The file, or for a picture in memory a name with its index.
    fn name(&self, index: usize) -> PathBuf {
        match self {
            Self::Folder(samples) => samples.items[index].path.clone(),
            Self::Memory { .. } => PathBuf::from(format!("picture {index}")),
        }
    }
}

/// How batches are made.
#[derive(Debug, Clone, PartialEq)]
pub struct LoaderOptions {
    /// Samples per batch, at least 1. The last batch is shorter where they do not come out even.
    pub batch: usize,
    /// Worker threads; 0 works in the caller's thread.
    pub threads: usize,
    /// Finished batches that each worker may hold ready.
    pub prefetch: usize,
    /// Shuffle every epoch anew.
    pub shuffle: bool,
    /// Samples of an epoch, at most: the first ones of its order. `None` takes all.
    pub samples: Option<usize>,
    /// Leave out the last batch where it would be short.
    pub drop_last: bool,
    /// Keep resized pictures in memory: (input height x input width x 3) bytes per sample.
    pub cache: bool,
    /// Keys the order and the augmentation.
    pub seed: u64,
    /// Random changes; `None` for evaluation.
    pub augment: Option<Augment>,
    /// Bounds on decoding.
    pub limits: Limits,
}

impl Default for LoaderOptions {
    /// Evaluation: batches of 32 in order, in the caller's thread.
    fn default() -> Self {
        Self {
            batch: 32,
            threads: 0,
            prefetch: 2,
            shuffle: false,
            samples: None,
            drop_last: false,
            cache: false,
            seed: 0,
            augment: None,
            limits: Limits::default(),
        }
    }
}

/// Normalised pictures with their labels.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Batch {
    /// `[n, height, width, 3]`, row-major, normalised.
    pub images: Vec<f32>,
    /// The class of each picture.
    pub labels: Vec<u32>,
    /// The place of each picture in the source.
    pub indices: Vec<usize>,
    /// The number of pictures.
    pub n: usize,
}

struct Shared {
    source: ImageSource,
    transform: EvalTransform,
    options: LoaderOptions,
    cache: Vec<OnceLock<Picture>>,
}

/// Keys that keep the order's stream apart from the samples' streams.
const ORDER: u64 = 0;
const SAMPLE: u64 = 1;

impl Shared {
    /// Samples of an epoch.
    fn samples(&self) -> usize {
        self.options.samples.map_or(self.source.len(), |most| most.min(self.source.len()))
    }

    fn picture(&self, index: usize) -> Result<Picture> {
        if let Some(cached) = self.cache.get(index).and_then(OnceLock::get) {
            return Ok(cached.clone());
        }
        let sized = match &self.source {
            ImageSource::Folder(samples) => {
                self.transform.picture(&decode_file(&samples.items[index].path, &self.options.limits)?)?
            }
            ImageSource::Memory { pictures, .. } => self.transform.picture(&pictures[index])?,
        };
        if let Some(place) = self.cache.get(index) {
            place.get_or_init(|| sized.clone());
        }
        Ok(sized)
    }

    fn batch(&self, epoch: u64, indices: &[usize], stop: &AtomicBool) -> Made {
        let (height, width) = self.transform.input_size;
        let mut made = Made::default();
        made.batch.images.reserve(indices.len() * height * width * 3);
        for &index in indices {
            if stop.load(Ordering::Relaxed) {
                break;
            }
            match self.picture(index) {
                Ok(mut picture) => {
                    if let Some(augment) = &self.options.augment {
                        let mut rng = Rng::keyed(&[self.options.seed, SAMPLE, epoch, index as u64]);
                        picture = augment.apply(&picture, &mut rng);
                    }
                    self.transform.normalise(picture.pixels(), &mut made.batch.images);
                    made.batch.labels.push(self.source.label(index));
                    made.batch.indices.push(index);
                    made.batch.n += 1;
                }
                Err(error) => made.skipped.push((self.source.name(index), error)),
            }
        }
        made
    }
}

#[derive(Default)]
struct Made {
    batch: Batch,
    skipped: Vec<(PathBuf, Error)>,
}

/// A source with its transform, from which epochs are drawn.
pub struct Loader {
    shared: Arc<Shared>,
}

impl Loader {
    /// Checks the settings; no file is read.
    pub fn new(source: ImageSource, transform: EvalTransform, options: LoaderOptions) -> Result<Self> {
        transform.check()?;
        let unfit = |setting, expected, found| Err(Error::Setting { setting, expected, found });
        if options.batch == 0 {
            return unfit("batch", "at least 1", options.batch.to_string());
        }
        if let Some(flip) = options.augment.map(|augment| augment.flip).filter(|flip| !(0.0..=1.0).contains(flip)) {
            return unfit("flip", "a probability", flip.to_string());
        }
        if let ImageSource::Memory { pictures, labels } = &source
            && pictures.len() != labels.len()
        {
            return unfit("labels", "one per picture", format!("{} for {}", labels.len(), pictures.len()));
        }
        let cached = if options.cache { source.len() } else { 0 };
        let cache = (0..cached).map(|_| OnceLock::new()).collect();
        Ok(Self { shared: Arc::new(Shared { source, transform, options, cache }) })
    }

    /// The source.
    pub fn source(&self) -> &ImageSource {
        &self.shared.source
    }

    /// Batches in an epoch in which no file is broken.
    pub fn batches(&self) -> usize {
        let (samples, batch) = (self.shared.samples(), self.shared.options.batch);
        if self.shared.options.drop_last { samples / batch } else { samples.div_ceil(batch) }
    }

    /// Starts an epoch. Its number keys the order and the augmentation; equal numbers give equal batches.
    pub fn epoch(&self, epoch: u64) -> Epoch {
        let options = &self.shared.options;
        let mut order: Vec<usize> = (0..self.shared.source.len()).collect();
        if options.shuffle {
            Rng::keyed(&[options.seed, ORDER, epoch]).shuffle(&mut order);
        }
        order.truncate(self.shared.samples());
        let work = Arc::new(Work {
            shared: Arc::clone(&self.shared),
            epoch,
            order,
            batches: self.batches(),
            stop: AtomicBool::new(false),
        });
        let workers = (0..options.threads.min(work.batches)).map(|first| Worker::start(&work, first)).collect();
        Epoch { work, workers, next: 0, skipped: Vec::new() }
    }
}

/// One epoch's work, shared by its workers.
struct Work {
    shared: Arc<Shared>,
    epoch: u64,
    order: Vec<usize>,
    batches: usize,
    stop: AtomicBool,
}

impl Work {
    fn make(&self, batch: usize) -> Made {
        let size = self.shared.options.batch;
        let end = self.order.len().min((batch + 1) * size);
        self.shared.batch(self.epoch, &self.order[batch * size..end], &self.stop)
    }
}

struct Worker {
    made: Receiver<Made>,
    thread: JoinHandle<()>,
}

impl Worker {
    fn start(work: &Arc<Work>, first: usize) -> Self {
        let options = &work.shared.options;
        let stride = options.threads.min(work.batches);
        let (send, made) = sync_channel(options.prefetch);
        let work = Arc::clone(work);
        let thread = std::thread::spawn(move || {
            for batch in (first..work.batches).step_by(stride) {
                if send.send(work.make(batch)).is_err() {
                    break;
                }
            }
        });
        Self { made, thread }
    }
}

/// The batches of one epoch, in order. Broken files are left out of their batch, which is then smaller (one without any
/// picture is not given), and are listed in [`Epoch::skipped`]. Dropping it stops the workers.
pub struct Epoch {
    work: Arc<Work>,
    workers: Vec<Worker>,
    next: usize,
    skipped: Vec<(PathBuf, Error)>,
}

impl Epoch {
    /// The samples left out of the batches given so far, with the reasons; complete when the iterator has ended.
    pub fn skipped(&self) -> &[(PathBuf, Error)] {
        &self.skipped
    }

    fn take(&mut self, batch: usize) -> Made {
        if self.workers.is_empty() {
            return self.work.make(batch);
        }
        let turn = batch % self.workers.len();
        match self.workers[turn].made.recv() {
            Ok(made) => made,
            // A worker ends early only by a panic, which is a bug: it goes on in the caller.
            Err(_) => match self.workers.swap_remove(turn).thread.join() {
                Err(panic) => std::panic::resume_unwind(panic),
                Ok(()) => Made::default(),
            },
        }
    }
}

impl Iterator for Epoch {
    type Item = Batch;

    fn next(&mut self) -> Option<Batch> {
        while self.next < self.work.batches {
            let made = self.take(self.next);
            self.next += 1;
            self.skipped.extend(made.skipped);
            if made.batch.n > 0 {
                return Some(made.batch);
            }
        }
        None
    }
}

impl Drop for Epoch {
    fn drop(&mut self) {
        self.work.stop.store(true, Ordering::Relaxed);
        for Worker { made, thread } in self.workers.drain(..) {
            // Closing the channel wakes a worker that waits for a place in it.
            drop(made);
            // A panic of a worker whose batches nobody asked for has no one to tell.
            let _ = thread.join();
        }
    }
}
