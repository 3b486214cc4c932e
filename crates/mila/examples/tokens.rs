//! What one layer costs by the number of its tokens: `tokens FOLDER ROUNDS`, which `cargo xtask tokens` runs.
//!
//! Prints tables in Markdown, and writes `tokens.svg` and `tokens.png` to FOLDER. Every time is taken in a process of its own,
//! `tokens cell OPERATOR SIDE`, so that its largest memory is that of one operator on one map. The operators are those of the
//! fast executor as models call them, without the projections around them. Softmax attention is Swin's operator with one window
//! over the whole map and biases of zero; it holds the scores of one head at a time, tokens by tokens, on every thread.

use std::error::Error;
use std::fmt::Write;
use std::fs;
use std::hint::black_box;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use mila::cpu::{Cpu, Map, awake};
use mila::inspect::lines::{Chart, Line, to_png, to_svg};
use mila::ops::random::Stream;
use mila::ops::recurrence::{CROSS_SCAN, Delta, Gate, InputGate, Part, Shortcut};
use mila::ops::{
    Builder, Dims, Executor, Init, LinearAttention, Numeric, Recurrence, RecurrenceOn, ScanOrder, Seeded, Windows,
};
use serde_json::{Value, json};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Of the second stage of MILA-T.
const CHANNELS: usize = 128;
const HEADS: usize = 4;
/// Sides of square maps: 196 to 262,144 tokens.
const SIDES: [usize; 7] = [14, 16, 32, 64, 128, 256, 512];
/// Beyond, softmax attention would take minutes a pass.
const MOST_SOFTMAX: usize = 128;
/// Exponents are fitted to all sizes, and to those of this side and more, where a call is long.
const LONG: usize = 64;
/// Passes of a turn go on until they are this many and took this long, or took far longer.
const LEAST_PASSES: usize = 2;
const LEAST_TIME: Duration = Duration::from_millis(250);
const MOST_TIME: Duration = Duration::from_secs(4);
/// Tokens whose values differ; the map repeats them.
const DISTINCT: usize = 4096;

#[derive(Clone, Copy, PartialEq)]
enum Operator {
    LinearAttention,
    Scan,
    FourScans,
    Softmax,
}

const OPERATORS: [Operator; 4] = [Operator::LinearAttention, Operator::Scan, Operator::FourScans, Operator::Softmax];

impl Operator {
    fn name(self) -> &'static str {
        match self {
            Self::LinearAttention => "linear attention",
            Self::Scan => "S6 scan, 16 states",
            Self::FourScans => "four S6 scans, 1 state",
            Self::Softmax => "softmax attention",
        }
    }

    /// Orders and states of the scans.
    fn scans(self) -> (&'static [ScanOrder], usize) {
        match self {
            Self::Scan => (&[ScanOrder::ROWS], 16),
            Self::FourScans => (&CROSS_SCAN, 1),
            Self::LinearAttention | Self::Softmax => (&[], 0),
        }
    }
}

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["cell", operator, side] => {
            let operator = OPERATORS.into_iter().find(|known| known.name() == operator).ok_or("no such operator")?;
            println!("{}", cell(operator, side.parse()?)?);
            Ok(())
        }
        [folder, rounds] => all(Path::new(folder), rounds.parse()?),
        _ => Err("usage: tokens FOLDER ROUNDS".into()),
    }
}

/// Passes of one operator over one map: `ms` of each, and `peak_mb`.
fn cell(operator: Operator, side: usize) -> Result<Value> {
    let (mut cpu, source) = (Cpu::default(), Seeded::new(0));
    match operator {
        Operator::LinearAttention => {
            let (qk, v) = (map(&cpu, side, 2 * CHANNELS)?, map(&cpu, side, CHANNELS)?);
            timed(|| cpu.linear_attention(&qk, &v, LinearAttention::mila(HEADS)))
        }
        Operator::Softmax => {
            let windows = Windows { side, shift: 0 };
            let mut builder = Builder::new(&mut cpu, &source);
            let table = builder.parameter("table", &[windows.offsets(), HEADS], Init::Zeros)?;
            let qkv = map(&cpu, side, 3 * CHANNELS)?;
            timed(|| cpu.window_attention(&qkv, &table, HEADS, windows))
        }
        Operator::Scan | Operator::FourScans => {
            let (orders, states) = operator.scans();
            let mut builder = Builder::new(&mut cpu, &source);
            let bias = builder.parameter("bias", &[CHANNELS], Init::StepSizeBias)?;
            let a_log = builder.parameter("a_log", &[CHANNELS, states], Init::LogCount)?;
            let d = builder.parameter("d", &[CHANNELS], Init::Ones)?;
            // B and C of every scan.
            let (x, projected) = (map(&cpu, side, CHANNELS)?, map(&cpu, side, 2 * states * orders.len())?);
            let deltas = orders.iter().map(|_| map(&cpu, side, CHANNELS)).collect::<Result<Vec<_>>>()?;
            let scan = |(i, order): (usize, &ScanOrder)| -> RecurrenceOn<'_, Cpu> {
                let [b, c] = [2 * i, 2 * i + 1].map(|part| Part::Range(&projected, part * states..(part + 1) * states));
                let delta = Delta { raw: (&deltas[i]).into(), bias: Some((&bias).into()) };
                Recurrence {
                    gate: Gate::Factored { delta, a_log: (&a_log).into() },
                    input_gate: InputGate::OfGate,
                    shortcut: Shortcut::Value((&d).into()),
                    ..Recurrence::causal(c, b, (&x).into(), *order)
                }
            };
            let scans: Vec<_> = orders.iter().enumerate().map(scan).collect();
            timed(|| cpu.recurrences(&scans))
        }
    }
}

/// A square map of standard normal values.
fn map(cpu: &Cpu, side: usize, channels: usize) -> Result<Map> {
    let dims = Dims::new(1, side, side, channels);
    let mut stream = Stream::new(&[channels as u64]);
    let distinct: Vec<f32> = (0..DISTINCT.min(dims.tokens()) * channels).map(|_| stream.normal() as f32).collect();
    let values: Vec<f32> = distinct.iter().copied().cycle().take(dims.volume()).collect();
    Ok(cpu.map(dims, &values)?)
}

/// The first pass, which makes buffers and tables, is not timed.
fn timed(pass: impl Fn() -> mila::ops::Result<Map> + Sync) -> Result<Value> {
    // Linux forgets the largest memory so far: that of making the operands.
    let forgotten = fs::write("/proc/self/clear_refs", "5").is_ok();
    black_box(pass()?);
    let (mut times, mut sum) = (Vec::new(), Duration::ZERO);
    while sum < LEAST_TIME || (times.len() < LEAST_PASSES && sum < MOST_TIME) {
        let started = Instant::now();
        let y = awake(&pass)?;
        let time = started.elapsed();
        black_box(y);
        sum += time;
        times.push(1e3 * time.as_secs_f64());
    }
    Ok(json!({ "ms": times, "peak_mb": forgotten.then(peak_mb).flatten() }))
}

/// The most memory that this process has had, in MB of a million bytes.
fn peak_mb() -> Option<f64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let kib = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?.trim().strip_suffix("kB")?;
    Some(kib.trim().parse::<f64>().ok()? * 1024.0 / 1e6)
}

/// What was measured of one operator on one map.
struct Measured {
    operator: Operator,
    side: usize,
    ms: Vec<f64>,
    peak_mb: Option<f64>,
}

impl Measured {
    fn tokens(&self) -> f64 {
        (self.side * self.side) as f64
    }

    fn median_ms(&self) -> f64 {
        let mut sorted = self.ms.clone();
        sorted.sort_by(f64::total_cmp);
        sorted[sorted.len() / 2]
    }
}

/// Every cell in `rounds` of turns; tables and pictures.
fn all(folder: &Path, rounds: usize) -> Result<()> {
    let program = std::env::current_exe()?;
    let sizes = |operator| SIDES.into_iter().filter(move |&side| operator != Operator::Softmax || side <= MOST_SOFTMAX);
    let new = |operator| sizes(operator).map(move |side| Measured { operator, side, ms: Vec::new(), peak_mb: None });
    let mut cells: Vec<Measured> = OPERATORS.into_iter().flat_map(new).collect();
    for round in 1..=rounds {
        eprintln!("round {round} of {rounds}");
        for cell in &mut cells {
            let arguments = ["cell", cell.operator.name(), &cell.side.to_string()].map(String::from);
            let output = Command::new(&program).args(arguments).stderr(Stdio::inherit()).output()?;
            let found: Value = serde_json::from_slice(&output.stdout)?;
            cell.ms.extend(found["ms"].as_array().into_iter().flatten().filter_map(Value::as_f64));
            cell.peak_mb = cell.peak_mb.into_iter().chain(found["peak_mb"].as_f64()).reduce(f64::max);
        }
    }
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    println!(
        "One layer of {CHANNELS} channels, {HEADS} heads, f32, {}, {threads} threads: medians of the passes of {rounds} rounds in \
         turns.\n",
        Cpu::default().isa()
    );
    println!("{}\n{}", times(&cells), memory(&cells));
    fs::create_dir_all(folder)?;
    let chart = chart(&cells);
    fs::write(folder.join("tokens.svg"), to_svg(&chart))?;
    fs::write(folder.join("tokens.png"), to_png(&chart))?;
    eprintln!("wrote {}", folder.join("tokens.{svg,png}").display());
    Ok(())
}

fn line(cells: &[Measured], operator: Operator, least: usize) -> Line {
    let of = cells.iter().filter(|cell| cell.operator == operator && cell.side >= least);
    let points = of.map(|cell| [cell.tokens(), cell.median_ms()]).collect();
    Line { name: operator.name().into(), note: String::new(), points }
}

fn exponent(line: &Line) -> String {
    line.exponent().map_or("-".into(), |exponent| format!("{exponent:.2}"))
}

/// Milliseconds a pass, and nanoseconds a token.
fn times(cells: &[Measured]) -> String {
    let names = OPERATORS.map(|operator| format!("{}, ms | ns a token", operator.name())).join(" | ");
    let mut table = format!("| tokens | {names} |\n|---|{}\n", "---|".repeat(2 * OPERATORS.len()));
    for side in SIDES {
        let _ = write!(table, "| {}x{side} = {}", side, side * side);
        for operator in OPERATORS {
            let _ = match cells.iter().find(|cell| cell.operator == operator && cell.side == side) {
                Some(cell) => {
                    let ms = cell.median_ms();
                    write!(table, " | {ms:.3} | {:.0}", 1e6 * ms / cell.tokens())
                }
                None => write!(table, " | - | -"),
            };
        }
        table += " |\n";
    }
    for (what, least) in [("exponent".to_string(), 0), (format!("exponent from {} tokens", LONG * LONG), LONG)] {
        let found = OPERATORS.map(|operator| exponent(&line(cells, operator, least))).join(" | | ");
        let _ = writeln!(table, "| {what} | {found} | |");
    }
    table
}

/// The largest memory of a process: operands, result, what the operator needs beside, and the program.
fn memory(cells: &[Measured]) -> String {
    let names = OPERATORS.map(|operator| format!("{}, MB", operator.name())).join(" | ");
    let mut table = format!("| tokens | {names} |\n|---|{}\n", "---|".repeat(OPERATORS.len()));
    for side in SIDES {
        let peak = |operator| {
            let cell = cells.iter().find(|cell| cell.operator == operator && cell.side == side);
            cell.and_then(|cell| cell.peak_mb).map_or("-".to_string(), |mb| format!("{mb:.0}"))
        };
        let _ = writeln!(table, "| {} | {} |", side * side, OPERATORS.map(peak).join(" | "));
    }
    table
}

fn chart(cells: &[Measured]) -> Chart {
    let line = |operator| {
        let line = line(cells, operator, 0);
        Line { note: format!("exponent {}", exponent(&line)), ..line }
    };
    Chart {
        title: format!("Time of one layer of {CHANNELS} channels, by tokens"),
        axes: ["tokens".into(), "ms a pass".into()],
        lines: OPERATORS.map(line).into(),
    }
}
