//! Images: decoding, orientation, resizing, evaluation transforms, class-folder datasets.
//!
//! The path of a sample is *bytes → [`Picture`] → [`EvalTransform`] → (in training) [`Augment`] → `f32` map*, and each
//! step can be used alone. Decoded pictures are 8-bit RGB as Pillow's `Image.open(f).convert("RGB")` gives them after
//! `ImageOps.exif_transpose`; resizing equals Pillow's; the transform is timm's for evaluation. Every random
//! choice is keyed by (seed, epoch, sample), so results do not depend on the number of threads.
//!
//! ```
//! use mila_data::{EvalTransform, Picture};
//!
//! let picture = Picture::new(2, 4, vec![255; 2 * 4 * 3])?;
//! let transform = EvalTransform { input_size: (2, 2), crop_pct: 1.0, ..EvalTransform::default() };
//! let map = transform.to_nhwc(&picture)?; // [2, 2, 3], normalised
//! assert_eq!(map.len(), 2 * 2 * 3);
//! # Ok::<(), mila_data::Error>(())
//! ```

mod augment;
mod container;
mod decode;
mod error;
mod exif;
mod folder;
mod jpeg;
mod loader;
mod picture;
mod resize;
mod rng;
mod scores;
mod transform;

pub use augment::{Augment, Fill};
pub use container::Format;
pub use decode::{Limits, decode, decode_file};
pub use error::{Error, Result};
pub use exif::Orientation;
pub use folder::{Dataset, Sample, Samples, Split, has_splits};
pub use loader::{Batch, Epoch, ImageSource, Loader, LoaderOptions};
pub use picture::Picture;
pub use resize::{Interpolation, resize};
pub use rng::Rng;
pub use scores::Scores;
pub use transform::{CropMode, EvalTransform};
