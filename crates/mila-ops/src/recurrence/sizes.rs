//! The shape rules of a recurrence, checked by every executor before it computes.

use super::{
    Course, Delta, Gate, InputGate, Normaliser, Part, Read, Recurrence, RecurrenceOn, ScanOrder, Shortcut, Start,
    StateAt, Steps,
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

/// A recurrence with everything checked, for executors whose maps have extents in numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolved {
    /// Its sizes.
    pub sizes: RecurrenceSizes,
    /// The extent of the output.
    pub output: Dims,
    /// The order that it walks the grid in; rows where it is not causal.
    pub order: ScanOrder,
    /// How many steps that makes.
    pub steps: usize,
    /// After how many of them the state is returned.
    pub until: usize,
}

/// The sizes of `r`, whose maps have `channels` channels and whose parameters `volume` values.
///
/// What is left to check are the extents of the maps and of the start.
///
/// # Errors
/// [`Error::Shape`] for parts beyond their map or parameter, for sizes that do not fit one another or the heads, for a
/// constant gate outside `(0, 1]`, for an eps that is not positive and finite in f32, and for combinations that have no meaning: the step
/// sizes of a gate that has none, or a non-causal recurrence with a gate, a carried state, a read before the write, or
/// a state within.
pub fn sizes<E: Executor>(
    r: &RecurrenceOn<'_, E>,
    channels: impl Fn(&E::Map) -> usize,
    volume: impl Fn(&E::Parameter) -> usize,
) -> Result<RecurrenceSizes> {
    let map = |part: &Part<'_, E::Map>| width(part, channels(part.whole()));
    let parameter = |part: &Part<'_, E::Parameter>| width(part, volume(part.whole()));
    r.with_operands(map, parameter, |_| Ok(()))?.sizes()
}

/// [`sizes()`], and all that depends on the extents of the maps.
///
/// # Errors
/// Those of [`sizes()`] and [`ScanOrder::steps`]; [`Error::Shape`] for maps of other extents than `v`, for a start of
/// another shape, and for a state beyond the last step.
pub fn resolve<E: Executor>(
    r: &RecurrenceOn<'_, E>,
    dims: impl Fn(&E::Map) -> Dims,
    volume: impl Fn(&E::Parameter) -> usize,
) -> Result<Resolved> {
    let sizes = sizes::<E>(r, |map| dims(map).channels, volume)?;
    let output = dims(r.v.whole()).with_channels(sizes.channels());
    let same = |part: &Part<'_, E::Map>| {
        let found = dims(part.whole());
        shape::same(OPERATOR, &output.with_channels(found.channels), &found)
    };
    let start = |start: &&E::Map| shape::same("recurrence's start", &sizes.state_dims(output.batch), &dims(start));
    r.with_operands(same, |_| Ok(()), start)?;
    let order = match r.course {
        Course::Causal(order) => order,
        Course::NonCausal(_) => ScanOrder::ROWS,
    };
    let steps = order.count(output.height, output.width)?;
    let until = match r.state {
        StateAt::Last => steps,
        StateAt::After(until) if until <= steps => until,
        StateAt::After(until) => {
            return Err(Error::shape(OPERATOR, format_args!("a state after at most {steps} steps"), until));
        }
    };
    Ok(Resolved { sizes, output, order, steps, until })
}

impl Resolved {
    /// The steps themselves.
    ///
    /// # Errors
    /// None that [`resolve`] has not found before.
    pub fn walk(&self) -> Result<Steps> {
        self.order.steps(self.output.height, self.output.width)
    }
}

/// A recurrence of numbers of channels and values.
impl Recurrence<usize, usize, ()> {
    fn sizes(&self) -> Result<RecurrenceSizes> {
        let Self { q, k, v, heads, .. } = *self;
        for (what, found) in [("queries", q), ("keys", k), ("values", v)] {
            if heads == 0 || found == 0 || !found.is_multiple_of(heads) {
                let expected = format!("channels of {what} that are a multiple of the {heads} heads");
                return Err(Error::shape(OPERATOR, expected, found));
            }
        }
        expect("channels of keys, as of queries", q, k)?;
        let keys = q / heads;
        let delta = |delta: &Delta<usize, usize>, wanted: usize| {
            expect("channels of step sizes", wanted, delta.raw)?;
            delta.bias.map_or(Ok(()), |bias| expect("values of the step sizes' bias", wanted, bias))
        };
        match &self.gate {
            Gate::None => {}
            Gate::Constant(gates) => {
                expect("constant gates", heads, gates.len())?;
                if let Some(gate) = gates.iter().find(|&&gate| !(gate > 0.0 && gate <= 1.0)) {
                    return Err(Error::shape(OPERATOR, "gates above 0 and up to 1", gate));
                }
            }
            Gate::Scalar(log) => expect("channels of gates per head", heads, *log)?,
            Gate::Keys(log) => expect("channels of gates along the keys", q, *log)?,
            Gate::Values(log) => expect("channels of gates along the values", v, *log)?,
            Gate::Factored { delta: step, a_log } => {
                delta(step, v)?;
                expect("values of A", v * keys, *a_log)?;
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
        if let Read::BeforeWrite { bonus } = self.read {
            expect("values of the bonus", q, bonus)?;
        }
        match self.shortcut {
            Shortcut::None => {}
            Shortcut::Value(d) => expect("values of D", v, d)?,
            Shortcut::Map { d, x } => {
                expect("values of D", v, d)?;
                expect("channels of the shortcut's map", v, x)?;
            }
        }
        if let Course::NonCausal(_) = self.course {
            let refused = |found: &str| Err(Error::shape(OPERATOR, "nothing that depends on an order", found));
            match (&self.gate, &self.read, &self.start, self.state) {
                (Gate::None, Read::AfterWrite, Start::Zeros, StateAt::Last) => {}
                (Gate::None, Read::AfterWrite, Start::Zeros, _) => return refused("a state within"),
                (Gate::None, Read::AfterWrite, ..) => return refused("a carried state"),
                (Gate::None, ..) => return refused("a read before the write"),
                _ => return refused("a gate"),
            }
        }
        Ok(RecurrenceSizes { heads, keys, values: v / heads, sums: self.sums()? })
    }

    /// Columns of `z` of a head.
    fn sums(&self) -> Result<usize> {
        let (eps, sums) = match (self.normaliser, &self.gate) {
            (Normaliser::None, _) => return Ok(0),
            (Normaliser::Gated { eps }, Gate::Values(_) | Gate::Factored { .. }) => (eps, self.v / self.heads),
            (Normaliser::Gated { eps } | Normaliser::Ungated { eps }, _) => (eps, 1),
        };
        // Executors compute in f32, where a small one is zero and a large one infinite.
        let narrow = eps as f32;
        if narrow > 0.0 && narrow.is_finite() {
            return Ok(sums);
        }
        Err(Error::shape(OPERATOR, "an eps above 0 and finite in f32", format_args!("{eps:e}")))
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
