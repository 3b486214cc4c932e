//! Goldens, and the harness that runs any executor against them: a test dependency of the executors.
//!
//! The goldens are made by `tools/golden`, an independent PyTorch implementation. Model parameters are not stored:
//! [`Formula`] gives every value as a function of the parameter's name. A new executor implements [`Subject`] and calls
//! [`operators`], [`blocks`], [`models`] and [`composites`]; every check panics with the case that fails.

mod compare;
mod composites;
mod formula;
mod golden;
mod models;
mod operators;
mod subject;

pub use compare::{Tolerance, assert_close};
pub use composites::composites;
pub use formula::{Formula, formula, formula_input};
pub use golden::{Case, Golden};
pub use models::{CONVNEXT_REDUCED, MILA_REDUCED, blocks, models};
pub use operators::operators;
pub use subject::{Factory, Subject};
