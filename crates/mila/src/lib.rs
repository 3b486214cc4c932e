//! `mila`: vision backbones whose global mixing costs linear time.
//!
//! This crate is the command line and the facade of the library: it re-exports the crates that one builds on, resolves
//! what a command line calls a MODEL ([`model`]), and classifies pictures ([`classify`]).
//!
//! ```no_run
//! use mila::cpu::Cpu;
//! use mila::models::{Preset, Task};
//! use mila::ops::{Dims, NoTap, Numeric, Seeded};
//!
//! let pixels = vec![0.0; 427 * 640 * 3];
//! let mut cpu = Cpu::default();
//! let model = Preset::find("mila-t")?.build(&mut cpu, &Seeded::new(0), Task::Pyramid)?;
//! let image = cpu.map(Dims::new(1, 427, 640, 3), &pixels)?;
//! let maps = model.forward(&cpu, image, &mut NoTap)?.pyramid();
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

pub mod classify;
pub mod digits;
pub mod model;
pub mod npy;
pub mod preprocessing;

#[cfg(feature = "train")]
pub use mila_burn as burn;
pub use mila_cpu as cpu;
pub use mila_data as data;
pub use mila_graph as graph;
pub use mila_inspect as inspect;
pub use mila_models as models;
pub use mila_ops as ops;
#[cfg(feature = "train")]
pub use mila_train as train;
pub use mila_weights as weights;
