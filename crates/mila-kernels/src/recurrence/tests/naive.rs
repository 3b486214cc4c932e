//! The recurrence by its equations, in f64, and cases for it.

use crate::isa::Isa;
use crate::recurrence::{Decay, Delta, Gradients, Input, Normaliser, PAD, Recurrence, Rows, Walk, backward};
use crate::testing::{numbers, unwritten};

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Gate {
    None,
    Constant,
    Scalar,
    Keys,
    Values,
    Factored,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Gating {
    None,
    OfDecay,
    Channel,
    Head,
}

/// A recurrence whose rows are parts of one map and whose parameters are parts of one vector.
#[derive(Clone, Debug)]
pub(super) struct Case {
    pub(super) batch: usize,
    pub(super) tokens: usize,
    pub(super) heads: usize,
    pub(super) keys: usize,
    pub(super) values: usize,
    /// Index and starts; all tokens at once without.
    pub(super) steps: Option<(Vec<u32>, Vec<u32>)>,
    pub(super) gate: Gate,
    pub(super) input: Gating,
    pub(super) normaliser: Normaliser,
    pub(super) before: bool,
    /// 0: none; 1: of v; 2: of another map.
    pub(super) shortcut: usize,
    pub(super) carried: bool,
    pub(super) until: usize,
}

const CONSTANT: [f32; 2] = [0.9, 0.6];

/// A walk through all tokens, with padding between them and a second segment, or one through every second.
#[allow(clippy::unnecessary_wraps, reason = "what a case wants")]
pub(super) fn walk(tokens: usize, turn: usize) -> Option<(Vec<u32>, Vec<u32>)> {
    let count = tokens as u32;
    Some(match turn % 4 {
        0 => ((0..count).collect(), vec![0]),
        1 => ((0..count).rev().flat_map(|token| [token, PAD]).collect(), vec![0]),
        2 => ([PAD].into_iter().chain(0..count).collect(), vec![0, count / 2 + 1]),
        _ => ((0..count).step_by(2).flat_map(|token| [token, PAD]).collect(), vec![0, 1]),
    })
}

impl Case {
    pub(super) fn outputs(&self) -> usize {
        self.batch * self.tokens * self.heads * self.values
    }

    /// The first channel of gate, q, x, k, v and input gate, and the number of channels.
    fn channels(&self) -> [usize; 7] {
        let (rows, columns) = (self.heads * self.keys, self.heads * self.values);
        let gate = match self.gate {
            Gate::None | Gate::Constant => 0,
            Gate::Scalar => self.heads,
            Gate::Keys => rows,
            Gate::Values | Gate::Factored => columns,
        };
        let x = if self.shortcut == 2 { columns } else { 0 };
        let mut end = 1;
        [0, gate, rows, x, rows, columns, self.input_width()].map(|width| {
            end += width;
            end
        })
    }

    fn input_width(&self) -> usize {
        match self.input {
            Gating::None | Gating::OfDecay => 0,
            Gating::Channel => self.heads * self.values,
            Gating::Head => self.heads,
        }
    }

    /// The first of decay bias, a_log, input bias, bonus and D, and how many there are.
    fn parameters(&self) -> [usize; 6] {
        let (rows, columns) = (self.heads * self.keys, self.heads * self.values);
        let factored = usize::from(self.gate == Gate::Factored);
        let bonus = if self.before { rows } else { 0 };
        let d = if self.shortcut == 0 { 0 } else { columns };
        let mut end = 0;
        [0, factored * columns, factored * columns * self.keys, self.input_width(), bonus, d].map(|width| {
            end += width;
            end
        })
    }

    fn sums(&self) -> usize {
        match (self.normaliser, self.gate) {
            (Normaliser::None, _) => 0,
            (Normaliser::Decaying(_), Gate::Values | Gate::Factored) => self.values,
            _ => 1,
        }
    }

    /// Map, parameters and start.
    pub(super) fn operands(&self) -> (Vec<f32>, Vec<f32>, Vec<f32>) {
        let [gate, q, x, k, v, input, width] = self.channels();
        let positive = self.normaliser != Normaliser::None;
        let mut map = numbers(1, self.batch * self.tokens * width);
        for row in map.chunks_exact_mut(width) {
            if !matches!(self.gate, Gate::Factored) {
                row[gate..q].iter_mut().for_each(|log| *log = -log.abs());
            }
            if positive {
                for channels in [q..x, k..v] {
                    row[channels].iter_mut().for_each(|x| *x = 0.2 + x.abs());
                }
            }
            row[input..].iter_mut().for_each(|x| *x *= 2.0);
        }
        let [.., bonus, d, count] = self.parameters();
        let mut parameters = numbers(2, count);
        parameters[bonus..d].iter_mut().for_each(|b| *b = b.abs());
        let state = self.batch * self.heads * self.keys * (self.values + self.sums());
        let start = if self.carried { numbers(3, state).iter().map(|x| x.abs()).collect() } else { Vec::new() };
        (map, parameters, start)
    }

    /// Sets every gate, or step size before the softplus.
    pub(super) fn set_gates(&self, map: &mut [f32], value: f32) {
        let [gate, q, .., width] = self.channels();
        map.chunks_exact_mut(width).for_each(|row| row[gate..q].fill(value));
    }

    /// Sets the biases of all step sizes.
    pub(super) fn set_biases(&self, parameters: &mut [f32], value: f32) {
        let [bias, a_log, input, bonus, ..] = self.parameters();
        parameters[bias..a_log].fill(value);
        parameters[input..bonus].fill(value);
    }

    pub(super) fn kernel<'a>(&'a self, map: &'a [f32], parameters: &'a [f32], start: &'a [f32]) -> Recurrence<'a> {
        let [gate, q, x, k, v, input, stride] = self.channels();
        let rows = |first| Rows { values: map, stride, first };
        let [bias, a_log, input_bias, bonus, d, end] = self.parameters();
        let delta = Delta { raw: rows(gate), bias: Some(&parameters[bias..a_log]) };
        let own = Delta { raw: rows(input), bias: Some(&parameters[input_bias..bonus]) };
        Recurrence {
            batch: self.batch,
            tokens: self.tokens,
            heads: self.heads,
            keys: self.keys,
            values: self.values,
            walk: match &self.steps {
                Some((index, starts)) => Walk::Steps { index, starts, until: self.until },
                None => Walk::All { share: 1.0 / self.tokens as f32 },
            },
            q: rows(q),
            k: rows(k),
            v: rows(v),
            decay: match self.gate {
                Gate::None => Decay::None,
                Gate::Constant => Decay::Constant(&CONSTANT[..self.heads]),
                Gate::Scalar => Decay::Scalar(rows(gate)),
                Gate::Keys => Decay::Keys(rows(gate)),
                Gate::Values => Decay::Values(rows(gate)),
                Gate::Factored => Decay::Factored { delta, a_log: &parameters[a_log..input_bias] },
            },
            input: match self.input {
                Gating::None => Input::None,
                Gating::OfDecay => Input::OfDecay,
                Gating::Channel => Input::Channel(own),
                Gating::Head => Input::Head(own),
            },
            bonus: self.before.then(|| &parameters[bonus..d]),
            normaliser: self.normaliser,
            shortcut: match self.shortcut {
                0 => None,
                1 => Some((&parameters[d..end], rows(v))),
                _ => Some((&parameters[d..end], rows(x))),
            },
            start: self.carried.then_some(start),
        }
    }

    /// Gradients of map, parameters and start.
    pub(super) fn backward(
        &self,
        isa: Isa,
        r: &Recurrence<'_>,
        dy: &[f32],
        dstates: &[f32],
    ) -> (Vec<f32>, Vec<f32>, Vec<f32>) {
        let [bias, a_log, input_bias, bonus, d, end] = self.parameters();
        let (mut map, mut parameters) = (unwritten(r.q.values.len()), unwritten(end));
        let mut start = unwritten(r.start.map_or(0, <[f32]>::len));
        let mut rest = parameters.as_mut_slice();
        let [decay_bias, a_log, input_bias, bonus, d] =
            [a_log - bias, input_bias - a_log, bonus - input_bias, d - bonus, end - d].map(|len| {
                let (part, after) = std::mem::take(&mut rest).split_at_mut(len);
                rest = after;
                part
            });
        let gradients = &mut Gradients { map: &mut map, decay_bias, a_log, input_bias, bonus, d, start: &mut start };
        backward(isa, r, dy, dstates, gradients);
        (map, parameters, start)
    }

    /// Outputs, then states.
    pub(super) fn naive(&self, map: &[f64], parameters: &[f64], start: &[f64]) -> Vec<f64> {
        let mut outputs = vec![0.0; self.outputs()];
        let columns = self.values + self.sums();
        let mut states = Vec::new();
        for image in 0..self.batch {
            for head in 0..self.heads {
                let start: Vec<f64> = match start {
                    [] => vec![0.0; self.keys * columns],
                    start => start[(image * self.heads + head) * self.keys * columns..][..self.keys * columns].to_vec(),
                };
                let kept = self.naive_head(map, parameters, &start, (image, head), &mut outputs);
                states.extend(kept);
            }
        }
        outputs.extend(states);
        outputs
    }

    /// Writes the outputs of a head of an image, and returns its state.
    fn naive_head(
        &self,
        map: &[f64],
        parameters: &[f64],
        start: &[f64],
        (image, head): (usize, usize),
        outputs: &mut [f64],
    ) -> Vec<f64> {
        let [_, q, _, k, _, _, width] = self.channels();
        let row = |token: u32| (token != PAD).then(|| &map[(image * self.tokens + token as usize) * width..][..width]);
        let at = |row: Option<&[f64]>, channel: usize| row.map_or(0.0, |row| row[channel]);
        let columns = self.values + self.sums();
        let (everything, share) = ((0..self.tokens as u32).collect::<Vec<_>>(), 1.0 / self.tokens as f64);
        let (index, starts, until, share) = match &self.steps {
            Some((index, starts)) => (index, starts.as_slice(), self.until, 1.0),
            None => (&everything, [0].as_slice(), self.tokens, share),
        };
        let mut state = start.to_vec();
        let mut kept = start.to_vec();
        let mut reads = vec![Vec::new(); index.len()];
        for (t, &token) in index.iter().enumerate() {
            if starts.contains(&(t as u32)) {
                state = start.to_vec();
            }
            let row = row(token);
            let before = state.clone();
            for n in 0..self.keys {
                for c in 0..columns {
                    let written = share * at(row, k + head * self.keys + n) * self.written(parameters, row, head, c);
                    state[n * columns + c] = self.gate(parameters, row, head, n, c) * before[n * columns + c] + written;
                }
            }
            let bonus = parameters.get(self.parameters()[3]..).filter(|_| self.before);
            let seen = |n: usize, c: usize| match bonus {
                None => state[n * columns + c],
                Some(bonus) => {
                    let written = at(row, k + head * self.keys + n) * self.written(parameters, row, head, c);
                    before[n * columns + c] + bonus[head * self.keys + n] * written
                }
            };
            let read = |seen: &dyn Fn(usize, usize) -> f64, c| {
                (0..self.keys).map(|n| at(row, q + head * self.keys + n) * seen(n, c)).sum::<f64>()
            };
            reads[t] = (0..columns).map(|c| read(&seen, c)).collect();
            if t + 1 == until {
                kept.clone_from(&state);
            }
        }
        for (t, &token) in index.iter().enumerate() {
            if let Some(row) = row(token) {
                if self.steps.is_none() {
                    let read = |c| (0..self.keys).map(|n| row[q + head * self.keys + n] * state[n * columns + c]).sum();
                    reads[t] = (0..columns).map(read).collect();
                }
                let first = ((image * self.tokens + token as usize) * self.heads + head) * self.values;
                for c in 0..self.values {
                    outputs[first + c] += self.output(parameters, row, head, c, &reads[t]);
                }
            }
        }
        kept
    }

    fn output(&self, parameters: &[f64], row: &[f64], head: usize, c: usize, read: &[f64]) -> f64 {
        let [_, _, x, _, v, ..] = self.channels();
        let channel = head * self.values + c;
        let n = match self.normaliser {
            Normaliser::None => 1.0,
            Normaliser::Decaying(eps) | Normaliser::Constant(eps) => {
                let column = if self.sums() == 1 { 0 } else { c };
                read[self.values + column] + f64::from(eps)
            }
        };
        let shortcut = match self.shortcut {
            0 => 0.0,
            kind => parameters[self.parameters()[4] + channel] * row[if kind == 1 { v } else { x } + channel],
        };
        read[c] / n + shortcut
    }

    /// What is written to column `c`: of the values, or of the sums behind them.
    fn written(&self, parameters: &[f64], row: Option<&[f64]>, head: usize, c: usize) -> f64 {
        let [_, _, _, _, v, input, _] = self.channels();
        let [_, _, bias, ..] = self.parameters();
        if c >= self.values {
            return 1.0;
        }
        let channel = head * self.values + c;
        let softplus = |x: f64| if x > 0.0 { x + (-x).exp().ln_1p() } else { x.exp().ln_1p() };
        let step = |i: usize| softplus(row.map_or(0.0, |row| row[input + i]) + parameters[bias + i]);
        let gate = match self.input {
            Gating::None => 1.0,
            Gating::OfDecay => self.step(parameters, row, channel),
            Gating::Channel => step(channel),
            Gating::Head => step(head),
        };
        gate * row.map_or(0.0, |row| row[v + channel])
    }

    /// The step size of a factored gate.
    fn step(&self, parameters: &[f64], row: Option<&[f64]>, channel: usize) -> f64 {
        let x = row.map_or(0.0, |row| row[self.channels()[0] + channel]) + parameters[channel];
        if x > 0.0 { x + (-x).exp().ln_1p() } else { x.exp().ln_1p() }
    }

    fn gate(&self, parameters: &[f64], row: Option<&[f64]>, head: usize, n: usize, c: usize) -> f64 {
        let (gate, a_log) = (self.channels()[0], self.parameters()[1]);
        let at = |channel: usize| row.map_or(0.0, |row| row[gate + channel]);
        let decays = c < self.values || matches!(self.normaliser, Normaliser::Decaying(_));
        // A column of sums that decays by itself is that of a channel.
        let channel = head * self.values + c % self.values;
        match self.gate {
            _ if !decays => 1.0,
            Gate::None => 1.0,
            Gate::Constant => f64::from(CONSTANT[head]),
            Gate::Scalar => at(head).exp(),
            Gate::Keys => at(head * self.keys + n).exp(),
            Gate::Values => at(channel).exp(),
            Gate::Factored => {
                (-self.step(parameters, row, channel) * parameters[a_log + channel * self.keys + n].exp()).exp()
            }
        }
    }
}
