//! Operands of a recurrence in another guise: widths, slices, nodes.

use super::{Delta, Gate, InputGate, Read, Recurrence, Shortcut, Start};

/// Functions that put other operands in the place of a recurrence's.
struct Change<FM, FP> {
    map: FM,
    parameter: FP,
}

impl<FM, FP> Change<FM, FP> {
    fn delta<M, P, M2, P2, E>(&mut self, delta: &Delta<M, P>) -> Result<Delta<M2, P2>, E>
    where
        FM: FnMut(&M) -> Result<M2, E>,
        FP: FnMut(&P) -> Result<P2, E>,
    {
        Ok(Delta { raw: (self.map)(&delta.raw)?, bias: delta.bias.as_ref().map(&mut self.parameter).transpose()? })
    }
}

impl<M, P, S> Recurrence<M, P, S> {
    /// The same recurrence of other operands. Maps are asked for in the order v, q, k, gate, input gate, shortcut.
    ///
    /// # Errors
    /// The first that a function returns.
    pub fn with_operands<M2, P2, S2, E>(
        &self,
        map: impl FnMut(&M) -> Result<M2, E>,
        parameter: impl FnMut(&P) -> Result<P2, E>,
        state: impl FnOnce(&S) -> Result<S2, E>,
    ) -> Result<Recurrence<M2, P2, S2>, E> {
        let mut change = Change { map, parameter };
        let v = (change.map)(&self.v)?;
        Ok(Recurrence {
            v,
            q: (change.map)(&self.q)?,
            k: (change.map)(&self.k)?,
            heads: self.heads,
            course: self.course,
            gate: match &self.gate {
                Gate::None => Gate::None,
                Gate::Constant(gates) => Gate::Constant(gates.clone()),
                Gate::Scalar(log) => Gate::Scalar((change.map)(log)?),
                Gate::Keys(log) => Gate::Keys((change.map)(log)?),
                Gate::Values(log) => Gate::Values((change.map)(log)?),
                Gate::Factored { delta, a_log } => {
                    Gate::Factored { delta: change.delta(delta)?, a_log: (change.parameter)(a_log)? }
                }
            },
            input_gate: match &self.input_gate {
                InputGate::None => InputGate::None,
                InputGate::OfGate => InputGate::OfGate,
                InputGate::Channel(delta) => InputGate::Channel(change.delta(delta)?),
                InputGate::Head(delta) => InputGate::Head(change.delta(delta)?),
            },
            normaliser: self.normaliser,
            read: match &self.read {
                Read::AfterWrite => Read::AfterWrite,
                Read::BeforeWrite { bonus } => Read::BeforeWrite { bonus: (change.parameter)(bonus)? },
            },
            shortcut: match &self.shortcut {
                Shortcut::None => Shortcut::None,
                Shortcut::Value(d) => Shortcut::Value((change.parameter)(d)?),
                Shortcut::Map { d, x } => Shortcut::Map { x: (change.map)(x)?, d: (change.parameter)(d)? },
            },
            start: match &self.start {
                Start::Zeros => Start::Zeros,
                Start::Carried(start) => Start::Carried(state(start)?),
            },
            state: self.state,
        })
    }
}
