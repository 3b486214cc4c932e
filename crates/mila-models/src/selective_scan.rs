//! The selective scan (S6) of Mamba (arXiv 2312.00752): the parts that its families share.
//!
//! A map `x` is projected to `[delta | B | C]` of every direction; `delta`, projected once more, gives the step sizes. Along its
//! order, with one head, each direction is the recurrence
//!
//! ```text
//! Δ_t = softplus(W_dt delta_t + b_dt)    S_t = exp(Δ_t A) ⊙ S_{t-1} + B_tᵀ (Δ_t ⊙ x_t)    y_t = C_t S_t + D ⊙ x_t
//! ```
//!
//! The projections of a token do not depend on the order, so they are taken before it.

use mila_ops::recurrence::{Delta, Gate, InputGate, Part, Shortcut};
use mila_ops::{Activation, Executor, Recurrence, RecurrenceOn, Result, ScanOrder};

/// How wide a scan is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sizes {
    /// Channels of `x`.
    pub(crate) channels: usize,
    /// Rows of the state: N, `d_state`.
    pub(crate) states: usize,
    /// Channels of `delta`: R, `dt_rank`.
    pub(crate) rank: usize,
}

impl Sizes {
    /// Those of a block of `width` channels: the rank is a sixteenth of the block's channels, not of the scan's.
    pub(crate) fn of_block(width: usize, channels: usize, states: usize) -> Self {
        Self { channels, states, rank: width.div_ceil(16) }
    }

    /// Channels of `[delta | B | C]`.
    pub(crate) fn projected(self) -> usize {
        self.rank + 2 * self.states
    }

    /// Largest magnitude that a linear map of `inputs` starts with in PyTorch.
    pub(crate) fn bound(inputs: usize) -> f32 {
        1.0 / (inputs as f32).sqrt()
    }
}

/// The raw parameters of several scans, one after the other.
pub(crate) struct Rates<E: Executor> {
    /// b_dt, `[scans, channels]`.
    pub(crate) bias: E::Parameter,
    /// A, `[scans * channels, states]`.
    pub(crate) a_log: E::Parameter,
    /// D, `[scans * channels]`.
    pub(crate) d: E::Parameter,
}

/// One direction.
pub(crate) struct SelectiveScan<E: Executor> {
    pub(crate) order: ScanOrder,
    pub(crate) sizes: Sizes,
    /// W_dt.
    pub(crate) dt: E::Linear,
    /// Which of the scans that share a projection and [`Rates`] it is.
    pub(crate) index: usize,
}

impl<E: Executor> SelectiveScan<E> {
    /// The first channel of its `[delta | B | C]`.
    fn first(&self) -> usize {
        self.index * self.sizes.projected()
    }

    /// `W_dt delta`: step sizes before their bias and the softplus.
    pub(crate) fn delta(&self, e: &E, projected: &E::Map) -> Result<E::Map> {
        let delta = e.channels(projected, self.first()..self.first() + self.sizes.rank)?;
        e.linear(&delta, &self.dt, Activation::None)
    }

    /// The recurrence over `x` with what was made of it.
    pub(crate) fn recurrence<'a>(
        &self,
        x: &'a E::Map,
        delta: &'a E::Map,
        projected: &'a E::Map,
        rates: &'a Rates<E>,
    ) -> RecurrenceOn<'a, E> {
        let Sizes { channels, states, rank } = self.sizes;
        let [b, c] = [0, 1].map(|part| self.first() + rank + part * states).map(|at| at..at + states);
        let own = |width: usize| self.index * width..(self.index + 1) * width;
        let delta = Delta { raw: delta.into(), bias: Some(Part::Range(&rates.bias, own(channels))) };
        Recurrence {
            gate: Gate::Factored { delta, a_log: Part::Range(&rates.a_log, own(channels * states)) },
            input_gate: InputGate::OfGate,
            shortcut: Shortcut::Value(Part::Range(&rates.d, own(channels))),
            ..Recurrence::causal(Part::Range(projected, c), Part::Range(projected, b), x.into(), self.order)
        }
    }
}
