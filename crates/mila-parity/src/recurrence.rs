//! Recurrences of every kind, as values: the same case for any executor.

use std::ops::Range;

use mila_ops::random::{Stream, site};
use mila_ops::recurrence::{
    Course, Delta, Gate, InputGate, NonCausal, Normaliser, Part, Path, Read, Shortcut, Start, StateAt,
};
use mila_ops::reference::{Array, RecurrenceGradients, Reference};
use mila_ops::{CROSS_SCAN, Dims, Executor, Init, Numeric, Recurrence, ScanOrder, Source, Values, Wanted};

use crate::{Factory, Tolerance, assert_close};

/// [`Gate`] without its operands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "named as the variants of Gate")]
pub enum GateKind {
    None,
    Constant,
    Scalar,
    Keys,
    Values,
    Factored,
}

/// [`InputGate`] without its operands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "named as the variants of InputGate")]
pub enum InputKind {
    None,
    OfGate,
    Channel,
    Head,
}

/// [`Read`] without its operands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "named as the variants of Read")]
pub enum ReadKind {
    AfterWrite,
    BeforeWrite,
}

/// [`Shortcut`] without its operands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "named as the variants of Shortcut")]
pub enum ShortcutKind {
    None,
    Value,
    Map,
}

/// [`Start`] without its operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "named as the variants of Start")]
pub enum StartKind {
    Zeros,
    Carried,
}

/// A recurrence whose maps are parts of one map, whose parameters are parts of one, and a state that it may start from.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RecurrenceCase {
    /// Heads.
    pub heads: usize,
    /// Rows of a head's state.
    pub keys: usize,
    /// Columns of a head's state.
    pub values: usize,
    /// Which tokens are seen.
    pub course: Course,
    /// How the state decays.
    pub gate: GateKind,
    /// What gates the input.
    pub input: InputKind,
    /// What divides.
    pub normaliser: Normaliser,
    /// When the state is read.
    pub read: ReadKind,
    /// What is added.
    pub shortcut: ShortcutKind,
    /// Where it starts.
    pub start: StartKind,
    /// Which state it returns.
    pub state: StateAt,
}

/// Gates of the heads of [`GateKind::Constant`].
const CONSTANT: [f32; 4] = [0.9, 1.0, 0.5, 0.97];
/// The eps of a MILA normaliser.
const EPS: f64 = 1e-6;

/// Values of a case.
#[derive(Clone, Debug)]
pub struct Operands {
    /// `[batch, height, width, RecurrenceCase::channels]`.
    pub map: Vec<f64>,
    /// `[RecurrenceCase::parameters]`.
    pub parameters: Vec<f64>,
    /// `[batch, heads, keys, values + sums]`.
    pub start: Vec<f64>,
}

impl RecurrenceCase {
    /// Causal linear attention by rows: two heads of three keys and four values, and nothing else.
    pub const PLAIN: Self = Self {
        heads: 2,
        keys: 3,
        values: 4,
        course: Course::Causal(ScanOrder::ROWS),
        gate: GateKind::None,
        input: InputKind::None,
        normaliser: Normaliser::None,
        read: ReadKind::AfterWrite,
        shortcut: ShortcutKind::None,
        start: StartKind::Zeros,
        state: StateAt::Last,
    };

    /// S6 as Mamba has it.
    pub const S6: Self = Self {
        heads: 1,
        keys: 4,
        values: 6,
        gate: GateKind::Factored,
        input: InputKind::OfGate,
        shortcut: ShortcutKind::Value,
        ..Self::PLAIN
    };

    /// Every kind of every switch, and every gate with every normaliser, read and order, in turns.
    pub fn all() -> Vec<Self> {
        let gated = Normaliser::Gated { eps: EPS };
        let ungated = Normaliser::Ungated { eps: EPS };
        let windows = ScanOrder::along(Path::Windows { side: 2 });
        let separate = ScanOrder::along(Path::SeparateWindows { side: 2 });
        let mut all = vec![
            Self::PLAIN,
            Self::S6,
            Self { keys: 1, values: 17, start: StartKind::Carried, ..Self::S6 },
            Self { values: 5, course: Course::Causal(windows.reversed()), ..Self::S6 },
            Self { course: Course::Causal(separate), start: StartKind::Carried, ..Self::S6 },
            Self {
                course: Course::Causal(ScanOrder::along(Path::SeparateTokens)),
                start: StartKind::Carried,
                ..Self::S6
            },
            Self { course: Course::Causal(ScanOrder::along(Path::Atrous { phase: 3 })), ..Self::S6 },
            // Row 2 of the MILA paper's ablation.
            Self { gate: GateKind::Factored, normaliser: ungated, ..Self::PLAIN },
            Self { gate: GateKind::Factored, input: InputKind::Head, normaliser: gated, ..Self::PLAIN },
            Self { gate: GateKind::Factored, input: InputKind::Channel, shortcut: ShortcutKind::Map, ..Self::PLAIN },
        ];
        let orders = [
            CROSS_SCAN[1],
            CROSS_SCAN[2],
            CROSS_SCAN[3],
            ScanOrder::along(Path::RowSnake),
            ScanOrder::along(Path::ColumnSnake).reversed(),
            windows,
            separate,
        ];
        let gates = [GateKind::None, GateKind::Constant, GateKind::Scalar, GateKind::Keys, GateKind::Values];
        let mut turn = 0;
        for gate in gates.into_iter().chain([GateKind::Factored]) {
            for normaliser in [Normaliser::None, gated, ungated] {
                for read in [ReadKind::AfterWrite, ReadKind::BeforeWrite] {
                    turn += 1;
                    let case = Self { gate, normaliser, read, ..Self::PLAIN };
                    all.push(Self {
                        course: Course::Causal(orders[turn % orders.len()]),
                        input: [InputKind::None, InputKind::Channel, InputKind::Head][turn % 3],
                        shortcut: [ShortcutKind::None, ShortcutKind::Value, ShortcutKind::Map][turn / 2 % 3],
                        start: [StartKind::Zeros, StartKind::Carried][turn / 3 % 2],
                        state: [StateAt::Last, StateAt::After(1), StateAt::After(0)][turn / 5 % 3],
                        ..case
                    });
                }
            }
        }
        for (form, input) in [(NonCausal::Mean, InputKind::Channel), (NonCausal::Sum, InputKind::Head)] {
            for normaliser in [Normaliser::None, ungated] {
                let shortcut = ShortcutKind::Value;
                all.push(Self { course: Course::NonCausal(form), normaliser, input, shortcut, ..Self::PLAIN });
            }
        }
        all
    }

    /// Columns of the normaliser's state of a head.
    pub fn sums(&self) -> usize {
        match (self.normaliser, self.gate) {
            (Normaliser::None, _) => 0,
            (Normaliser::Gated { .. }, GateKind::Values | GateKind::Factored) => self.values,
            _ => 1,
        }
    }

    /// The extent of its state.
    pub fn state_dims(&self, batch: usize) -> Dims {
        Dims::new(batch, self.heads, self.keys, self.values + self.sums())
    }

    /// Channels of the map, and how they are shared out: gate, q, v, k, the shortcut's map, the input gate.
    fn parts(&self) -> [Range<usize>; 6] {
        let (rows, columns) = (self.heads * self.keys, self.heads * self.values);
        let gate = match self.gate {
            GateKind::None | GateKind::Constant => 0,
            GateKind::Scalar => self.heads,
            GateKind::Keys => rows,
            GateKind::Values | GateKind::Factored => columns,
        };
        let x = if self.shortcut == ShortcutKind::Map { columns } else { 0 };
        let input = match self.input {
            InputKind::None | InputKind::OfGate => 0,
            InputKind::Channel => columns,
            InputKind::Head => self.heads,
        };
        ranges([gate, rows, columns, rows, x, input])
    }

    /// How the parameters are shared out: the gate's bias, `a_log`, the input gate's bias, bonus, D.
    fn parameter_parts(&self) -> [Range<usize>; 5] {
        let (rows, columns) = (self.heads * self.keys, self.heads * self.values);
        let [gate, .., input] = self.parts();
        let factored = self.gate == GateKind::Factored;
        let bonus = if self.read == ReadKind::BeforeWrite { rows } else { 0 };
        let d = if self.shortcut == ShortcutKind::None { 0 } else { columns };
        let (bias, a_log) = if factored { (gate.len(), columns * self.keys) } else { (0, 0) };
        ranges([bias, a_log, input.len(), bonus, d])
    }

    /// Channels of the map.
    pub fn channels(&self) -> usize {
        self.parts()[5].end
    }

    /// Values of the parameter, at least one.
    pub fn parameters(&self) -> usize {
        self.parameter_parts()[4].end.max(1)
    }

    /// Values for a map of the tokens of `dims`, exact in f32 and always the same.
    pub fn operands(&self, dims: Dims) -> Operands {
        let mut stream = Stream::new(&[site(&format!("{self:?}")), dims.tokens() as u64]);
        let mut between = move |low: f64, high: f64| f64::from((low + (high - low) * stream.uniform()) as f32);
        // A normaliser wants positive queries and keys.
        let low = if self.normaliser == Normaliser::None { -1.0 } else { 0.2 };
        let [_, q, v, k, x, _] = self.parts();
        let logs = matches!(self.gate, GateKind::Scalar | GateKind::Keys | GateKind::Values);
        let mut channel = |c: usize| match c {
            c if q.contains(&c) || k.contains(&c) => between(low, 1.0),
            c if v.contains(&c) || x.contains(&c) => between(-1.0, 1.0),
            _ if c < q.start && logs => between(-1.5, 0.0),
            _ => between(-2.0, 1.5),
        };
        let map = (0..dims.rows()).flat_map(|_| 0..self.channels()).map(&mut channel).collect();
        let mut stream = Stream::new(&[site(&format!("{self:?}")), 1]);
        let mut number = move || f64::from((2.0 * stream.uniform() - 1.0) as f32);
        let [.., bonus, _] = self.parameter_parts();
        // A normaliser wants a positive bonus, too.
        let signed = |i: usize, x: f64| if bonus.contains(&i) { x.abs() } else { x };
        let parameters = (0..self.parameters()).map(|i| signed(i, number())).collect();
        let start = (0..self.state_dims(dims.batch).volume()).map(|_| number().abs()).collect();
        Operands { map, parameters, start }
    }

    /// The recurrence of these operands.
    pub fn recurrence<'a, M, P>(
        &self,
        map: &'a M,
        parameter: &'a P,
        start: &'a M,
    ) -> Recurrence<Part<'a, M>, Part<'a, P>, &'a M> {
        let [gate, q, v, k, x, input] = self.parts().map(|range| Part::Range(map, range));
        let [gate_bias, a_log, input_bias, bonus, d] =
            self.parameter_parts().map(|range| Part::Range(parameter, range));
        let delta = |raw, bias| Delta { raw, bias: Some(bias) };
        Recurrence {
            heads: self.heads,
            course: self.course,
            gate: match self.gate {
                GateKind::None => Gate::None,
                GateKind::Constant => Gate::Constant(CONSTANT[..self.heads].to_vec()),
                GateKind::Scalar => Gate::Scalar(gate),
                GateKind::Keys => Gate::Keys(gate),
                GateKind::Values => Gate::Values(gate),
                GateKind::Factored => Gate::Factored { delta: delta(gate, gate_bias), a_log },
            },
            input_gate: match self.input {
                InputKind::None => InputGate::None,
                InputKind::OfGate => InputGate::OfGate,
                InputKind::Channel => InputGate::Channel(delta(input, input_bias)),
                InputKind::Head => InputGate::Head(delta(input, input_bias)),
            },
            normaliser: self.normaliser,
            read: match self.read {
                ReadKind::AfterWrite => Read::AfterWrite,
                ReadKind::BeforeWrite => Read::BeforeWrite { bonus },
            },
            shortcut: match self.shortcut {
                ShortcutKind::None => Shortcut::None,
                ShortcutKind::Value => Shortcut::Value(d),
                ShortcutKind::Map => Shortcut::Map { d, x },
            },
            start: match self.start {
                StartKind::Zeros => Start::Zeros,
                StartKind::Carried => Start::Carried(start),
            },
            state: self.state,
            ..Recurrence::causal(q, k, v, ScanOrder::ROWS)
        }
    }

    /// Gradients in the places of the operands: of the map, of the parameter, of the start.
    pub fn packed(&self, g: &RecurrenceGradients<f64>) -> [Vec<f64>; 3] {
        let maps = [&g.gate, &g.q, &g.v, &g.k, &g.x, &g.input];
        let rows = g.q.dims.rows();
        let row =
            |row: usize| maps.into_iter().flat_map(move |m| &m.values[row * m.dims.channels..][..m.dims.channels]);
        let map = (0..rows).flat_map(row).copied().collect();
        let mut parameters = [&g.gate_bias, &g.a_log, &g.input_bias, &g.bonus, &g.d].map(Vec::as_slice).concat();
        parameters.resize(self.parameters(), 0.0);
        [map, parameters, g.start.values.clone()]
    }
}

/// Neighbouring ranges of these lengths.
fn ranges<const N: usize>(lengths: [usize; N]) -> [Range<usize>; N] {
    let mut end = 0;
    lengths.map(|length| {
        end += length;
        end - length..end
    })
}

/// Runs every case at awkward extents, alone and several at once, against the f64 reference.
///
/// # Panics
/// With the case that fails.
pub fn recurrences<E: Numeric>(make: Factory<E>, tolerance: Tolerance) {
    let wide = |case| RecurrenceCase { values: 70, ..case };
    let cases = RecurrenceCase::all().into_iter().chain([wide(RecurrenceCase::S6), wide(RecurrenceCase::PLAIN)]);
    for case in cases {
        for dims in [Dims::new(1, 1, 1, 0), Dims::new(2, 5, 7, 0), Dims::new(1, 7, 9, 0), Dims::new(0, 3, 2, 0)] {
            check(make, &case, dims, tolerance);
        }
    }
}

fn check<E: Numeric>(make: Factory<E>, case: &RecurrenceCase, dims: Dims, tolerance: Tolerance) {
    let operands = case.operands(dims);
    let reference = Reference::<f64>::eval();
    let map = Array::new(dims.with_channels(case.channels()), operands.map.clone());
    let start = Array::new(case.state_dims(dims.batch), operands.start.clone());
    let r = || case.recurrence(&map, &operands.parameters, &start);
    let wanted = reference.recurrence(&r()).unwrap_or_else(|error| panic!("{case:?}: {error}"));
    let together = [CROSS_SCAN[0], CROSS_SCAN[3], ScanOrder::along(Path::SeparateWindows { side: 2 })];
    let of_order = |order| Recurrence { course: Course::Causal(order), state: StateAt::Last, ..r() };
    let sum = reference.recurrences(&together.map(of_order)).expect("a sum");

    let mut e = make();
    let wanted_parameter = Wanted::parameter("all".into(), &[case.parameters()], Init::Zeros);
    let parameter = e.prepare_parameter(wanted_parameter, &Stored(&operands.parameters)).expect("a parameter");
    let e = e.evaluating();
    let narrow = |values: &[f64]| values.iter().map(|&x| x as f32).collect::<Vec<_>>();
    let [map, start] = [map, start].map(|map| e.map(map.dims, &narrow(&map.values)).expect("a map"));
    let r = || case.recurrence(&map, &parameter, &start);
    let (y, state) = e.recurrence(&r()).unwrap_or_else(|error| panic!("{case:?}: {error}"));
    let of_order = |order| Recurrence { course: Course::Causal(order), state: StateAt::Last, ..r() };
    let together = e.recurrences(&together.map(of_order)).expect("a sum");
    for (what, found, wanted) in [("output", y, wanted.0), ("state", state, wanted.1), ("sum", together, sum)] {
        let found = e.read(&found).expect("a map that can be read");
        assert_eq!(found.dims, wanted.dims, "{case:?} at {dims}: extent of the {what}");
        assert_close(&format!("{case:?} at {dims}, {what}"), &found.values, &narrow(&wanted.values), tolerance);
    }
}

/// Values of the one parameter that is asked for.
struct Stored<'a>(&'a [f64]);

impl Source for Stored<'_> {
    fn load(&self, _: &Wanted) -> mila_ops::Result<Values<'_>> {
        Ok(Values::F64(self.0.into()))
    }
}
