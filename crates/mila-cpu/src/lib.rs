//! The fast CPU executor: packed weights, folded norms, fused epilogues, recycled buffers.
//!
//! [`Cpu`] runs on rayon's current thread pool; the caller chooses how many threads that has, and keeps them [`awake`] during a
//! pass to save the time that they take to wake up. It reads no clock, no environment and no file.
//!
//! ```
//! use mila_cpu::Cpu;
//! use mila_models::{Preset, Task};
//! use mila_ops::{Dims, NoTap, Numeric, Seeded};
//!
//! let mut cpu = Cpu::default();
//! let model = Preset::find("mila-nano")?.build(&mut cpu, &Seeded::new(0), Task::Classify { classes: 10 })?;
//! let image = cpu.map(Dims::new(1, 32, 32, 3), &[0.0; 32 * 32 * 3])?;
//! let logits = model.forward(&cpu, image, &mut NoTap)?.logits().expect("a classifier gives logits");
//! assert_eq!(cpu.read(&logits)?.values.len(), 10);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod arguments;
mod buffer;
mod executor;
mod fused;
mod grid;
mod numeric;
mod observer;
mod prepared;
mod recurrence;
mod sequence;

pub use buffer::{Map, Recycling};
pub use executor::Cpu;
pub use mila_kernels::{Bf16Unit, Isa, Level, awake};
pub use observer::Observer;
pub use prepared::Precision;
