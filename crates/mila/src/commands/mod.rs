//! One file per verb.

pub(crate) mod bench;
pub(crate) mod completions;
pub(crate) mod convert;
#[cfg(feature = "train")]
pub(crate) mod demo;
pub(crate) mod doctor;
pub(crate) mod eval;
pub(crate) mod export;
pub(crate) mod inspect;
pub(crate) mod models;
pub(crate) mod predict;
pub(crate) mod run;
#[cfg(feature = "train")]
pub(crate) mod study;
#[cfg(feature = "train")]
pub(crate) mod train;
