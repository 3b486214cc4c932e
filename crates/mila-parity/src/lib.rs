//! Goldens, and the harness that runs any executor against them: a test dependency of the executors.
//!
//! The goldens are made by `tools/golden`, an independent PyTorch implementation. Model parameters are not stored:
//! [`Formula`] gives every value as a function of the parameter's name. A new executor implements [`mila_ops::Numeric`] and calls
//! [`operators`], [`reference_operators`], [`blocks`], [`models`], [`composites`], [`recurrences`] and [`recurrence_goldens`]; every
//! check panics with the case that fails.

mod compare;
mod composites;
mod formula;
mod golden;
mod golden_recurrence;
mod models;
mod operators;
mod recurrence;
mod reference_operators;

pub use compare::{Tolerance, assert_close};
pub use composites::composites;
pub use formula::{Formula, formula, formula_input};
pub use golden::{Case, Golden};
pub use golden_recurrence::{recurrence_golden_gradients, recurrence_goldens};
pub use models::{
    CONVNEXT_REDUCED, MAMBA_ND_REDUCED, MAMBAOUT_REDUCED, MILA_REDUCED, SWIN_REDUCED, VIM_REDUCED, VMAMBA_REDUCED,
    VMAMBA_V0_REDUCED, ablation_reduced, blocks, mamba_presets, models, presets,
};
pub use operators::operators;
pub use recurrence::{GateKind, InputKind, Operands, ReadKind, RecurrenceCase, ShortcutKind, StartKind, recurrences};
pub use reference_operators::reference_operators;

/// Makes executors; each model is built on a fresh one.
pub type Factory<'a, E> = &'a dyn Fn() -> E;
