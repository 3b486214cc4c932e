//! Distinction 2: linear attention whose state decays from token to token.

use mila_ops::recurrence::{Delta, Gate, Normaliser, Part};
use mila_ops::{Activation, Builder, Executor, Init, Mechanism, Recurrence, Result, ScanOrder, Tap};

use super::attention::RANK;

/// Added to the sum of the weights so far, as MILA's attention adds it to their mean.
const NORMALISER_EPS: f64 = 1e-6;

/// `S_i = exp(Δ_i A) S_{i-1} + K_i^T V_i`, `Z_i = Z_{i-1} + K_i^T`, `y_i = Q_i S_i / (Q_i Z_i)`: equations (4) and (11) of the
/// paper, with `Δ = softplus(W2 W1 x + b)` and `A = -exp(A_log)`.
pub(super) struct ForgetfulAttention<E: Executor> {
    /// Tap names: the layer, and what its step sizes are made of.
    names: [String; 2],
    heads: usize,
    /// Channels of all heads' queries, and of their keys.
    keys: usize,
    down: E::Linear,
    up: E::Linear,
    bias: E::Parameter,
    a_log: E::Parameter,
}

impl<E: Executor> ForgetfulAttention<E> {
    /// Asks for `x_proj.weight`, `dt_proj.*` and `A_log`, which are called and start as Mamba's.
    pub(super) fn build(
        b: &mut Builder<E>,
        inputs: usize,
        values: usize,
        (keys, heads): (usize, usize),
    ) -> Result<Self> {
        let rank = (inputs / RANK).max(1);
        Ok(Self {
            names: [b.path(""), b.path("forget_gate")],
            heads,
            keys,
            down: b.linear_without_bias("x_proj", inputs, rank)?,
            up: b.linear_without_bias("dt_proj", rank, values)?,
            bias: b.parameter("dt_proj.bias", &[values], Init::StepSizeBias)?,
            a_log: b.undecayed_parameter("A_log", &[values, keys / heads], Init::LogCount)?,
        })
    }

    /// `x` gives the step sizes; `qk` holds queries and keys before ELU + 1. The tap's map is `W2 W1 x`.
    pub(super) fn forward(&self, e: &E, x: &E::Map, qk: &E::Map, v: &E::Map, tap: &mut dyn Tap<E>) -> Result<E::Map> {
        let low = e.linear(x, &self.down, Activation::None)?;
        let raw = tap.pass(&self.names[1], e.linear(&low, &self.up, Activation::None)?)?;
        let qk = e.activate(qk.clone(), Activation::EluPlusOne)?;
        let [q, k] = [0, 1].map(|part| Part::Range(&qk, part * self.keys..(part + 1) * self.keys));
        let delta = Delta { raw: (&raw).into(), bias: Some((&self.bias).into()) };
        let recurrence = Recurrence {
            heads: self.heads,
            gate: Gate::Factored { delta, a_log: (&self.a_log).into() },
            normaliser: Normaliser::Ungated { eps: NORMALISER_EPS },
            ..Recurrence::causal(q, k, v.into(), ScanOrder::ROWS)
        };
        tap.mechanism(&self.names[0], Mechanism::Recurrences(std::slice::from_ref(&recurrence)))?;
        Ok(e.recurrence(&recurrence)?.0)
    }
}
