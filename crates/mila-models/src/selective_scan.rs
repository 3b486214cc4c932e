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
use mila_ops::{Activation, Builder, CausalConv, Executor, Init, Recurrence, RecurrenceOn, Result, ScanOrder, Tap};

/// Tokens that a causal convolution sees.
const TAPS: usize = 4;

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

/// Mamba's branch along a sequence: a causal convolution, and the scan of what it gives.
pub(crate) struct CausalScan<E: Executor> {
    /// Tap names: the convolution, and `[delta | B | C]`.
    names: [String; 2],
    conv: CausalConv<E>,
    x_proj: E::Linear,
    rates: Rates<E>,
    scan: SelectiveScan<E>,
}

/// What a [`CausalScan`] makes of its input, for its recurrence.
pub(crate) struct Scanned<M> {
    value: M,
    projected: M,
    delta: M,
}

impl<E: Executor> CausalScan<E> {
    /// Asks for A and D, which the checkpoints hold before the layers.
    pub(crate) fn rates(b: &mut Builder<E>, a_log: &str, d: &str, sizes: Sizes) -> Result<[E::Parameter; 2]> {
        let a_log = b.undecayed_parameter(a_log, &[sizes.channels, sizes.states], Init::LogCount)?;
        Ok([a_log, b.undecayed_parameter(d, &[sizes.channels], Init::Ones)?])
    }

    /// Asks for `conv1d{suffix}`, `x_proj{suffix}` and `dt_proj{suffix}`, whose bias starts from `bias`.
    pub(crate) fn build(
        b: &mut Builder<E>,
        suffix: &str,
        (order, sizes): (ScanOrder, Sizes),
        [a_log, d]: [E::Parameter; 2],
        bias: Init,
    ) -> Result<Self> {
        let Sizes { channels, rank, .. } = sizes;
        let [conv, x_proj, dt] = ["conv1d", "x_proj", "dt_proj"].map(|layer| format!("{layer}{suffix}"));
        let linear = |b: &mut Builder<E>, name: &str, inputs, outputs| {
            b.linear_rows(&format!("{name}.weight"), &[outputs, inputs], 0..outputs, Init::fan_in(inputs))
        };
        Ok(Self {
            names: [b.path(&conv), b.path(&x_proj)],
            conv: b.causal_conv(&conv, channels, TAPS)?,
            x_proj: linear(b, &x_proj, channels, sizes.projected())?,
            scan: SelectiveScan { order, sizes, dt: linear(b, &dt, rank, channels)?, index: 0 },
            rates: Rates { bias: b.parameter(&format!("{dt}.bias"), &[channels], bias)?, a_log, d },
        })
    }

    /// The convolution and the projections.
    pub(crate) fn prepare(&self, e: &E, x: &E::Map, tap: &mut dyn Tap<E>) -> Result<Scanned<E::Map>> {
        let value = tap.pass(&self.names[0], e.causal_conv(x, &self.conv, self.scan.order, Activation::Silu)?)?;
        let projected = tap.pass(&self.names[1], e.linear(&value, &self.x_proj, Activation::None)?)?;
        Ok(Scanned { delta: self.scan.delta(e, &projected)?, value, projected })
    }

    /// The recurrence over what was prepared.
    pub(crate) fn recurrence<'a>(&'a self, scanned: &'a Scanned<E::Map>) -> RecurrenceOn<'a, E> {
        self.scan.recurrence(&scanned.value, &scanned.delta, &scanned.projected, &self.rates)
    }
}
