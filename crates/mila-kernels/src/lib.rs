//! CPU kernels on f32 slices, forward and backward, that stand alone.
//!
//! Maps are `[batch, height, width, channels]` and token sequences `[batch, tokens, channels]`, row-major. Every kernel
//! takes the instruction set that it runs on as an [`Isa`], writes its result over whatever the output held, and spreads
//! large work over rayon's current pool, in pieces that do not change the order of any sum: a result has the same bits on any
//! number of threads. Memory that a forward pass needs is kept by each thread for the next one, but for the states of linear
//! attention whose heads are no multiple of a tile's width: those are packed anew.
//!
//! A slice whose length does not fit is a programming error and panics; callers check shapes. Empty operands are fine.
//!
//! | module | equation |
//! |---|---|
//! | [`linear`] | y = activation(x W + b) + residual |
//! | [`mlp`] | y = activation(norm(x) W₁ + b₁) W₂ + b₂ + residual |
//! | [`bottleneck`] | 1x1, depthwise, 1x1 |
//! | [`conv`], [`depthwise`] | the same with windows of a map |
//! | [`causal_conv`] | the same with the tokens before one in any order |
//! | [`layer_norm`], [`batch_norm`] | y = (x - mean) / sqrt(variance + ε) · weight + bias |
//! | [`rms_norm`] | y = x / sqrt(mean(x²) + ε) · weight |
//! | [`linear_attention`] | o = (R φ(q))ᵀ S / (φ(q)ᵀ m + ε) |
//! | [`recurrence`] | S_t = G_t ⊙ S_{t-1} + k_tᵀ u_t, o_t = q_t S_t |
//! | [`window_attention`] | o = softmax(q kᵀ / √d + b) v within windows |
//! | [`activation`], [`elementwise`], [`channels`], [`pool`] | element by element, some channels, and means |
//! | [`adamw`] | one step of the optimiser |
//! | [`arena`] | memory for large maps |

pub mod activation;
pub mod adamw;
pub mod arena;
pub mod arithmetic;
mod awake;
pub mod batch_norm;
mod bf16;
pub mod bottleneck;
mod cache;
pub mod causal_conv;
pub mod channels;
mod columns;
pub mod conv;
pub mod depthwise;
pub mod elementwise;
mod epilogue;
mod format;
pub mod isa;
mod lane;
pub mod layer_norm;
pub mod linear;
pub mod linear_attention;
pub mod math;
mod matrix;
pub mod mlp;
pub mod pool;
mod product;
pub mod recurrence;
mod reduce;
pub mod rms_norm;
pub mod roof;
mod rows;
mod scratch;
mod shape;
mod strip;
#[cfg(test)]
mod testing;
mod threads;
mod tile;
pub mod window_attention;
mod windows;

pub use activation::Activation;
pub use awake::awake;
pub use bf16::Bf16Unit;
pub use bottleneck::Bottleneck;
pub use epilogue::Epilogue;
pub use isa::{Isa, Level};
pub use linear_attention::Attention;
pub use matrix::PackedMatrix;
pub use mlp::Mlp;
pub use rows::{Centre, Norm};
pub use shape::{Map, Window};
pub use window_attention::WindowAttention;
