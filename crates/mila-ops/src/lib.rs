//! The operator algebra of `mila`: what a vision backbone is made of, and how it asks for its parameters.
//!
//! A model is written once as a plain function over [`Executor`]; every use of it is an executor of that algebra. This
//! crate holds the algebra, the parameter [`Builder`] and its [`Source`], [`Tap`]s on named intermediate maps, and the
//! [`mod@reference`] executor that defines every operator. It does no I/O and contains no `unsafe`.
//!
//! ```
//! use mila_ops::reference::{Array, Reference};
//! use mila_ops::{Activation, Builder, Dims, Executor, Seeded};
//!
//! let mut reference = Reference::<f64>::eval();
//! let projection = Builder::new(&mut reference, &Seeded::new(1)).linear("head", 8, 3)?;
//! let x = Array::new(Dims::new(1, 2, 2, 8), vec![0.5; 32]);
//! let y = reference.linear(&x, &projection, Activation::None)?;
//! assert_eq!(y.dims, Dims::new(1, 2, 2, 3));
//! # Ok::<(), mila_ops::Error>(())
//! ```

mod activation;
mod attention;
mod builder;
mod causal;
pub mod composed;
mod composite;
mod dims;
mod error;
mod executor;
mod mechanism;
mod mode;
mod numeric;
mod parameter;
mod patch;
pub mod random;
pub mod recurrence;
pub mod reference;
pub mod rope2d;
mod seeded;
pub mod shape;
mod tap;
mod windows;

pub use activation::Activation;
pub use attention::{LinearAttention, Normalisation, Positions};
pub use builder::{Builder, Convolution};
pub use causal::CausalConv;
pub use composite::{Bottleneck, FusedBottleneck, GatedConv, GatedInput, Mlp, NormedLinear, Onto, Residual};
pub use dims::{Dims, Window};
pub use error::{Error, Result};
pub use executor::{Executor, LAYER_NORM_EPS};
pub use mechanism::Mechanism;
pub use mode::{BatchStatistics, DropPath, Mode};
pub use numeric::Numeric;
pub use parameter::{
    BatchNormWanted, ConvWanted, Init, Kind, LinearWanted, NormForm, NormWanted, Source, Values, Wanted,
};
pub use patch::{PatchOrder, TokenPlace};
pub use recurrence::{CROSS_SCAN, Recurrence, RecurrenceOn, ScanOrder, Steps};
pub use seeded::Seeded;
pub use tap::{NoTap, Tap};
pub use windows::Windows;
