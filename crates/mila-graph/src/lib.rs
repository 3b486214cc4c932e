//! The tracing executor: a model's shapes, parameter manifest and exact costs, without touching a number.
//!
//! Running a model on [`Graph`] records its operators. Extents may be symbolic, so one trace answers for every height,
//! width and batch. A count, a parameter list or a graph is always such an execution of the model's own body.
//!
//! ```
//! use mila_graph::{Sizes, Trace};
//! use mila_models::{Preset, Task};
//!
//! let trace = Trace::of(Preset::find("mila-t")?, Task::Classify { classes: 1000 })?;
//! assert_eq!(trace.parameters(), 24_392_200);
//! assert_eq!(trace.cost(Sizes::square(224)).macs, 4_131_401_728);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod cost;
mod executor;
mod extent;
mod node;
pub mod onnx;
mod recurrence;
mod tokens;
mod trace;

pub use cost::{Cost, Layer, Sizes};
pub use executor::{Graph, Shaped};
pub use extent::{Extent, Step, Symbol};
pub use node::{Id, Node, Operator, TensorId};
pub use recurrence::{MapPart, Recorded, TensorPart};
pub use trace::Trace;
