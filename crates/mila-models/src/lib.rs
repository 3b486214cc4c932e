//! Vision backbones, one file per family, each written once over [`mila_ops::Executor`].
//!
//! [`Preset::find`] gives a model by its registered name; [`Preset::build`] prepares it for any executor. A model is a
//! trunk, which gives one map per stage, and a head: a classifier or the dense pyramid.
//!
//! ```
//! use mila_models::{Preset, Task};
//! use mila_ops::reference::{Array, Reference};
//! use mila_ops::{Dims, NoTap, Seeded};
//!
//! let mut reference = Reference::<f32>::eval();
//! let model = Preset::find("mila-nano")?.build(&mut reference, &Seeded::new(0), Task::Classify { classes: 10 })?;
//! let image = Array::zeros(Dims::new(1, 32, 32, 3));
//! let logits = model.forward(&reference, image, &mut NoTap)?.logits().expect("a classifier gives logits");
//! assert_eq!(logits.dims, Dims::new(1, 1, 1, 10));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

pub mod ablation;
pub mod convnext;
pub mod mamba_nd;
pub mod mambaout;
pub mod mila;
mod model;
mod pyramid;
mod registry;
mod selective_scan;
pub mod swin;
pub mod vim;
pub mod vmamba;

pub use model::{Model, Output, Task};
pub use registry::{Architecture, Interpolation, Preprocessing, Preset, Published, Unknown};
