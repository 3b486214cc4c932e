//! The shape rules of a recurrence, checked by every executor before it computes.

use super::{
    Course, Delta, Gate, InputGate, NonCausal, Normaliser, Part, Read, Recurrence, ScanOrder, Shortcut, Start, StateAt,
    Steps,
};
use crate::{Dims, Error, Executor, Result, shape};

const OPERATOR: &str = "recurrence";

/// The channels of a recurrence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecurrenceSizes {
    /// Heads.
    pub heads: usize,
    /// Rows of a head's state.
    pub keys: usize,
    /// Columns of a head's state.
    pub values: usize,
    /// Columns of the normaliser's `z` of a head: none without a normaliser, `values` where it decays by channel, else one.
    pub sums: usize,
}

impl RecurrenceSizes {
    /// Channels of the output: `heads * values`.
    pub const fn channels(self) -> usize {
        self.heads * self.values
    }

    /// Numbers of one image's state: `heads * keys * (values + sums)`.
    pub const fn state(self) -> usize {
        self.heads * self.keys * (self.values + self.sums)
    }

    /// The extent of the states of a batch.
    pub const fn state_dims(self, batch: usize) -> Dims {
        Dims { batch, height: self.heads, width: self.keys, channels: self.values + self.sums }
    }

    /// Logarithms of gates must not be positive; a NaN passes, to be found where it is looked for.
    ///
    /// # Errors
    /// [`Error::Shape`] with the first that is.
    pub fn check_logs(logs: impl IntoIterator<Item = f64>) -> Result<()> {
        match logs.into_iter().find(|&log| log > 0.0) {
            None => Ok(()),
            Some(log) => Err(Error::shape(OPERATOR, "logarithms of gates of at most 0", log)),
        }
    }
}

impl<E: Executor> Recurrence<'_, E> {
    /// The sizes of this recurrence, whose maps have `channels` channels and whose parameters `volume` values.
    ///
    /// What is left to check are the extents of the maps and of the start.
    ///
    /// # Errors
    /// [`Error::Shape`] for parts beyond their map or parameter, for sizes that do not fit one another or the heads, for a
    /// constant gate outside `(0, 1]`, for an eps that is not positive, and for combinations that have no meaning: the step
    /// sizes of a gate that has none, or a non-causal recurrence with a gate, a carried state, a read before the write, or
    /// a state within.
    pub fn sizes(
        &self,
        channels: impl Fn(&E::Map) -> usize,
        volume: impl Fn(&E::Parameter) -> usize,
    ) -> Result<RecurrenceSizes> {
        let [q, k, v] = [&self.q, &self.k, &self.v].map(|part| width(part, channels(part.whole())));
        let (q, k, v) = (q?, k?, v?);
        let heads = self.heads;
        for (what, found) in [("queries", q), ("keys", k), ("values", v)] {
            if heads == 0 || found == 0 || !found.is_multiple_of(heads) {
                let expected = format!("channels of {what} that are a multiple of the {heads} heads");
                return Err(Error::shape(OPERATOR, expected, found));
            }
        }
        expect("channels of keys, as of queries", q, k)?;
        let keys = q / heads;
        let map = |what: &str, part: &Part<'_, E::Map>, wanted: usize| {
            expect(&format!("channels of {what}"), wanted, width(part, channels(part.whole()))?)
        };
        let parameter = |what: &str, part: &Part<'_, E::Parameter>, wanted: usize| {
            expect(&format!("values of {what}"), wanted, width(part, volume(part.whole()))?)
        };
        let delta = |delta: &Delta<'_, E>, wanted: usize| {
            map("step sizes", &delta.raw, wanted)?;
            delta.bias.as_ref().map_or(Ok(()), |bias| parameter("the step sizes' bias", bias, wanted))
        };
        match &self.gate {
            Gate::None => {}
            Gate::Constant(gates) => {
                expect("constant gates", heads, gates.len())?;
                if let Some(gate) = gates.iter().find(|&&gate| !(gate > 0.0 && gate <= 1.0)) {
                    return Err(Error::shape(OPERATOR, "gates above 0 and up to 1", gate));
                }
            }
            Gate::Scalar(log) => map("gates per head", log, heads)?,
            Gate::Keys(log) => map("gates along the keys", log, q)?,
            Gate::Values(log) => map("gates along the values", log, v)?,
            Gate::Factored { delta: step, a_log } => {
                delta(step, v)?;
                parameter("A", a_log, v * keys)?;
            }
        }
        match (&self.input_gate, &self.gate) {
            (InputGate::None, _) | (InputGate::OfGate, Gate::Factored { .. }) => {}
            (InputGate::OfGate, _) => {
                return Err(Error::shape(OPERATOR, "a factored gate, whose step sizes gate the input", "another gate"));
            }
            (InputGate::Channel(step), _) => delta(step, v)?,
            (InputGate::Head(step), _) => delta(step, heads)?,
        }
        if let Read::BeforeWrite { bonus } = &self.read {
            parameter("the bonus", bonus, q)?;
        }
        match &self.shortcut {
            Shortcut::None => {}
            Shortcut::Value(d) => parameter("D", d, v)?,
            Shortcut::Map { d, x } => {
                parameter("D", d, v)?;
                map("the shortcut's map", x, v)?;
            }
        }
        if let Course::NonCausal(NonCausal::Sum | NonCausal::Mean) = self.course {
            let refused = |found: &str| Err(Error::shape(OPERATOR, "nothing that depends on an order", found));
            match (&self.gate, &self.read, &self.start, self.state) {
                (Gate::None, Read::AfterWrite, Start::Zeros, StateAt::Last) => {}
                (Gate::None, Read::AfterWrite, Start::Zeros, _) => return refused("a state within"),
                (Gate::None, Read::AfterWrite, ..) => return refused("a carried state"),
                (Gate::None, ..) => return refused("a read before the write"),
                _ => return refused("a gate"),
            }
        }
        Ok(RecurrenceSizes { heads, keys, values: v / heads, sums: self.sums(v / heads)? })
    }

    /// [`sizes`](Self::sizes), the extent of the output, and the steps over its grid, with everything checked: for executors
    /// whose maps have `dims` in numbers.
    ///
    /// # Errors
    /// Those of [`sizes`](Self::sizes) and [`ScanOrder::steps`]; [`Error::Shape`] for maps of other extents than `v`, for a
    /// start of another shape, and for a state beyond the last step.
    pub fn resolve(
        &self,
        dims: impl Fn(&E::Map) -> Dims,
        volume: impl Fn(&E::Parameter) -> usize,
    ) -> Result<(RecurrenceSizes, Dims, Steps)> {
        let sizes = self.sizes(|map| dims(map).channels, volume)?;
        let output = dims(self.v.whole()).with_channels(sizes.channels());
        for part in self.maps() {
            let found = dims(part.whole());
            shape::same(OPERATOR, &output.with_channels(found.channels), &found)?;
        }
        if let Start::Carried(start) = self.start {
            shape::same("recurrence's start", &sizes.state_dims(output.batch), &dims(start))?;
        }
        let order = match self.course {
            Course::Causal(order) => order,
            Course::NonCausal(_) => ScanOrder::ROWS,
        };
        let steps = order.steps(output.height, output.width)?;
        match self.state {
            StateAt::After(after) if after > steps.len() => {
                Err(Error::shape(OPERATOR, format_args!("a state after at most {} steps", steps.len()), after))
            }
            _ => Ok((sizes, output, steps)),
        }
    }

    /// Columns of `z` of a head with `values` columns.
    fn sums(&self, values: usize) -> Result<usize> {
        let (eps, sums) = match (self.normaliser, &self.gate) {
            (Normaliser::None, _) => return Ok(0),
            (Normaliser::Gated { eps }, Gate::Values(_) | Gate::Factored { .. }) => (eps, values),
            (Normaliser::Gated { eps } | Normaliser::Ungated { eps }, _) => (eps, 1),
        };
        if eps > 0.0 && eps.is_finite() { Ok(sums) } else { Err(Error::shape(OPERATOR, "an eps above 0", eps)) }
    }

    /// Every map among the operands but the start: they have the batch, height and width of `v`.
    pub fn maps(&self) -> impl Iterator<Item = &Part<'_, E::Map>> {
        let gate = match &self.gate {
            Gate::None | Gate::Constant(_) => None,
            Gate::Scalar(log) | Gate::Keys(log) | Gate::Values(log) => Some(log),
            Gate::Factored { delta, .. } => Some(&delta.raw),
        };
        let input_gate = match &self.input_gate {
            InputGate::None | InputGate::OfGate => None,
            InputGate::Channel(delta) | InputGate::Head(delta) => Some(&delta.raw),
        };
        let shortcut = match &self.shortcut {
            Shortcut::None | Shortcut::Value(_) => None,
            Shortcut::Map { x, .. } => Some(x),
        };
        [Some(&self.v), Some(&self.q), Some(&self.k), gate, input_gate, shortcut].into_iter().flatten()
    }
}

/// How many channels or values a part has, of `available`.
fn width<T>(part: &Part<'_, T>, available: usize) -> Result<usize> {
    let range = part.range(available);
    if range.start <= range.end && range.end <= available {
        return Ok(range.len());
    }
    Err(Error::shape(OPERATOR, format_args!("a part of {available} channels or values"), format_args!("{range:?}")))
}

fn expect(what: &str, wanted: usize, found: usize) -> Result<()> {
    if wanted == found { Ok(()) } else { Err(Error::shape(OPERATOR, format_args!("{wanted} {what}"), found)) }
}
