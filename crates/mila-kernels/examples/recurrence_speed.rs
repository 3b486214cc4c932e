//! Prints the speed of the recurrence, forward and backward, at the shapes of the models, on one thread and on two.
//!
//! `cargo run --release -p mila-kernels --example recurrence_speed [avx512|avx2|portable] [model]`
//!
//! A time is that of the fastest of many calls, which a busy machine disturbs least. Beside it stand the time of one thread for
//! an element of the state, of all orders, and how many multiply-adds in registers it could have done meanwhile.

use std::time::Instant;

use mila_kernels::{
    Isa, Level,
    recurrence::{self, Decay, Delta, Gradients, Input, Normaliser, Recurrence, Rows, Walk},
    roof,
};
use rayon::{ThreadPool, ThreadPoolBuilder};

/// What gates, and what divides.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    /// Step sizes gate state and input; D of the values is added.
    S6,
    /// Step sizes gate the state alone, and the sum of all keys so far divides.
    ForgetGate,
}

struct Case {
    of: &'static str,
    kind: Kind,
    batch: usize,
    /// Of the map.
    side: usize,
    heads: usize,
    keys: usize,
    values: usize,
    /// Rows, columns, and both from the end.
    orders: usize,
}

const fn s6(of: &'static str, side: usize, values: usize, keys: usize, orders: usize) -> Case {
    Case { of, kind: Kind::S6, batch: 1, side, heads: 1, keys, values, orders }
}

const fn forget_gate(of: &'static str, batch: usize, side: usize, heads: usize, dim: usize) -> Case {
    Case { of, kind: Kind::ForgetGate, batch, side, heads, keys: dim, values: dim, orders: 1 }
}

const CASES: [Case; 11] = [
    forget_gate("forget gate, 32x32, stage 1", 64, 16, 2, 16),
    forget_gate("forget gate, 32x32, stage 3", 64, 4, 8, 16),
    forget_gate("forget gate, stage 1", 1, 56, 3, 32),
    forget_gate("forget gate, stage 3", 1, 14, 12, 32),
    s6("vim-ti", 14, 384, 16, 2),
    s6("mamba-nd", 14, 768, 16, 1),
    s6("vmamba-t, stage 1", 56, 192, 1, 4),
    s6("vmamba-t, stage 2", 28, 384, 1, 4),
    s6("vmamba-t, stage 3", 14, 768, 1, 4),
    s6("vmamba-t, stage 4", 7, 1536, 1, 4),
    s6("vmamba-t, first version, stage 1", 56, 192, 16, 4),
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut isa = Isa::detect();
    let mut filter = String::new();
    for argument in std::env::args().skip(1) {
        match Level::from_name(&argument) {
            Some(level) => isa = Isa::new(level).ok_or("this processor lacks the instructions")?,
            None => filter = argument,
        }
    }
    let pools = [1, 2].map(|threads| ThreadPoolBuilder::new().num_threads(threads).build());
    let [one, two] = pools;
    let pools = [one?, two?];
    println!("{isa}; one thread, then two");
    for case in CASES.iter().filter(|case| case.of.contains(&filter)) {
        case.print(isa, &pools);
    }
    Ok(())
}

impl Case {
    fn print(&self, isa: Isa, pools: &[ThreadPool; 2]) {
        let (tokens, channels, rows) = (self.side * self.side, self.heads * self.values, self.heads * self.keys);
        let stride = 2 * channels + 2 * rows;
        let map: Vec<f32> = numbers(self.batch * tokens * stride);
        let map: Vec<f32> = match self.kind {
            Kind::S6 => map,
            Kind::ForgetGate => map.into_iter().map(f32::abs).collect(),
        };
        let bias: Vec<f32> = numbers(channels).iter().map(|x| 1.5 * x - 3.5).collect();
        let a_log: Vec<f32> = (0..channels * self.keys).map(|i| ((i % self.keys + 1) as f32).ln()).collect();
        let d = vec![1.0; channels];
        let orders: Vec<Vec<u32>> = (0..self.orders).map(|turn| self.order(turn)).collect();
        let part = |first| Rows { values: &map, stride, first };
        let all: Vec<Recurrence<'_>> = orders
            .iter()
            .map(|index| Recurrence {
                batch: self.batch,
                tokens,
                heads: self.heads,
                keys: self.keys,
                values: self.values,
                walk: Walk::Steps { index, starts: &[0], until: tokens },
                q: part(2 * channels + rows),
                k: part(2 * channels),
                v: part(0),
                decay: Decay::Factored { delta: Delta { raw: part(channels), bias: Some(&bias) }, a_log: &a_log },
                input: if self.kind == Kind::S6 { Input::OfDecay } else { Input::None },
                bonus: None,
                normaliser: if self.kind == Kind::S6 { Normaliser::None } else { Normaliser::Constant(1e-6) },
                shortcut: (self.kind == Kind::S6).then(|| (&d[..], part(0))),
                start: None,
            })
            .collect();
        let mut y = vec![0.0; self.batch * tokens * channels];
        let elements = self.batch * tokens * channels * self.keys;
        self.line(isa, "forward", self.orders * elements, pools, || recurrence::forward(isa, &all, &mut y, None));
        let (dy, no_states) = (numbers(y.len()), vec![0.0; all[0].state_len()]);
        let (mut dmap, mut dbias, mut da_log, mut dd) =
            (vec![0.0; map.len()], vec![0.0; channels], vec![0.0; a_log.len()], vec![0.0; channels]);
        self.line(isa, "backward of one", elements, pools, || {
            let mut gradients = Gradients {
                map: &mut dmap,
                decay_bias: &mut dbias,
                a_log: &mut da_log,
                input_bias: &mut [],
                bonus: &mut [],
                d: if self.kind == Kind::S6 { &mut dd } else { &mut [] },
                start: &mut [],
            };
            recurrence::backward(isa, &all[0], &dy, &no_states, &mut gradients);
        });
    }

    fn line(&self, isa: Isa, pass: &str, elements: usize, pools: &[ThreadPool; 2], mut body: impl FnMut() + Send) {
        print!("{:<33} {pass:<16}", self.of);
        for pool in pools {
            let seconds = pool.install(|| fastest(&mut body));
            let element = seconds * pool.current_num_threads() as f64 / elements as f64;
            let mut operations = 0;
            let roof = pool.install(|| fastest(&mut || operations = roof::fma(isa, 1 << 16)));
            let multiply_adds = seconds / elements as f64 * operations as f64 / 2.0 / roof;
            print!("{:9.3} ms {:7.3} ns {multiply_adds:6.1}", seconds * 1e3, element * 1e9);
        }
        println!();
    }

    fn order(&self, turn: usize) -> Vec<u32> {
        let side = self.side;
        let token = |i: usize| if turn.is_multiple_of(2) { i } else { i % side * side + i / side };
        let forth = (0..side * side).map(|i| token(i) as u32);
        if turn < 2 { forth.collect() } else { forth.rev().collect() }
    }
}

/// `len` numbers in [-1, 1).
fn numbers(len: usize) -> Vec<f32> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    (0..len)
        .map(|_| {
            state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
            (state >> 40) as f32 / (1 << 23) as f32 - 1.0
        })
        .collect()
}

/// The time of the fastest call, in seconds.
fn fastest(body: &mut impl FnMut()) -> f64 {
    body();
    let (mut best, mut calls, start) = (f64::INFINITY, 0, Instant::now());
    while calls < 10 || start.elapsed().as_secs_f64() < 0.15 {
        let start = Instant::now();
        body();
        best = best.min(start.elapsed().as_secs_f64());
        calls += 1;
    }
    best
}
