//! A traced model as ONNX: operators of set 17, real arithmetic, f32.
//!
//! The input `image` is `[batch, 3, height, width]`, normalised as the model's preset says. The output is `logits`,
//! `[batch, classes]`, or one map a level, `level0`, `level1`, ..., `[batch, channels, height, width]`. Extents are numbers
//! or, with [`Extents::Dynamic`], symbols; then rotary positions are computed from the extents of the input.
//!
//! Nodes and tensors are named after the parameter paths, initialisers are the checkpoint's tensors under their own names.
//! Where values differ from the stored ones (a linear map's transposed weight, a folded batch norm, the pairs of a rotation
//! taken apart), the initialiser's `doc_string` says so.
//!
//! ```
//! use mila_graph::{Sizes, Trace, onnx::Extents};
//! use mila_models::{Preset, Task};
//! use mila_ops::Seeded;
//!
//! let trace = Trace::of(Preset::find("mila-nano")?, Task::Classify { classes: 10 })?;
//! let mut file = Vec::new();
//! trace.onnx(Extents::Fixed(Sizes::square(32)))?.write(&Seeded::new(0), &mut file)?;
//! assert_eq!(file[0], 8);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod attention;
mod channels;
mod content;
mod dim;
mod extent_nodes;
mod file;
mod grid;
mod lower;
mod maps;
mod recurrence;
mod tokens;
mod windows;
mod wire;

pub use dim::Extents;
pub use file::{Error, Onnx};
