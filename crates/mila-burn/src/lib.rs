//! The Burn executor: gradients on the CPU now, and GPUs through the same model bodies.
//!
//! This is the only crate that names Burn, and no Burn type leaves it except as a map and its gradients. A model is built on
//! [`Burn::declare`], which gathers the parameters into a [`Store`]; each pass runs on [`Burn::train`] or
//! [`Burn::eval`], which own that store's tensors. [`Trainer`] puts it together: loss, gradients, clipping, AdamW,
//! running statistics, and a state that resumes bit for bit.
//!
//! On the CPU the operators that would dominate are one custom Burn operation with gradients of its own, over the
//! kernels of `mila-kernels`; other devices use the composed forms of `portable.rs`.

mod adamw;
mod batch;
mod executor;
mod extension;
mod operation;
mod portable;
mod recurrence;
mod sequence;
mod store;
mod trainer;
mod windows;

pub use adamw::AdamW;
pub use batch::ImageBatch;
pub use executor::{Burn, Form};
pub use store::{Handle, Store};
pub use trainer::{Progress, Trainer, TrainerState};
