//! `mila bench`: how long a forward pass takes, beside what the machine could do.

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mila::cpu::{Cpu, Map, Precision, awake};
use mila::data::Limits;
use mila::graph::{Sizes, Trace};
use mila::model::{self, Resolved};
use mila::models::Model;
use mila::ops::random::{Stream, site};
use mila::ops::{Dims, NoTap, Numeric};
use serde_json::{Value, json};

use crate::cli::{Bench, Machine};
use crate::commands::doctor;
use crate::failure::Failure;
use crate::profile::{Profile, Row};
use crate::roofs::{self, Copying};
use crate::terminal::Terminal;
use crate::times::Times;

/// Without `--iterations`: passes go on until they are this many, and took this long.
const LEAST_PASSES: usize = 5;
const LEAST_TIME: Duration = Duration::from_secs(3);

pub(crate) fn run(args: Bench, machine: &Machine, terminal: &Terminal) -> Result<(), Failure> {
    let running = until_interrupted()?;
    let request = args.model.request(false);
    let resolved = model::resolve(&request)?;
    resolved.notes.iter().for_each(|note| terminal.note(note));
    let sizes = sizes(&args, &resolved)?;
    let mut cpu = machine.cpu(args.precision, terminal);
    let precision = cpu.precision();
    let model = resolved.preset.build(&mut cpu, &resolved.parameters, resolved.task)?;
    let image = image(&cpu, sizes, request.seed)?;
    let loops = Loop { model: &*model, image: &image, iterations: args.iterations, running: &running };

    loops.warm_up(&cpu, args.warmup)?;
    let times = loops.timed(&cpu)?;
    // Before the buffers that the roof of copying needs.
    let peak_rss_mb = peak_rss_mb();
    let profiled = if args.profile { Some(loops.profiled(cpu)?) } else { None };
    let measured = Measured {
        model: resolved.preset.name,
        sizes,
        machine,
        precision,
        times: Times::new(times).ok_or_else(|| Failure::usage("--iterations: expected at least 1"))?,
        macs: Trace::of(resolved.preset, resolved.task)?.cost(sizes).macs,
        roof_gflops: roofs::products(machine.isa, precision),
        copy_gb_s: Copying::new().speed(),
        peak_rss_mb,
        profiled,
    };
    running()?;
    if args.json {
        terminal.result(measured.json())?
    } else {
        measured.table(terminal)?
    }
    let p50_ms = measured.times.percentile_ms(50);
    match args.fail_above {
        Some(most) if p50_ms > most => {
            Err(Failure::threshold(format!("p50 is {p50_ms:.3} ms, expected at most {most} ms")))
        }
        _ => Ok(()),
    }
}

/// The extents of the input, which has to be a possible one.
fn sizes(args: &Bench, resolved: &Resolved) -> Result<Sizes, Failure> {
    crate::sizes::check(resolved, args.size)?;
    let mut transform = resolved.transform.clone();
    transform.input_size = args.size.unwrap_or(transform.input_size);
    transform.check()?;
    let (height, width) = transform.input_size;
    let sizes = Sizes { batch: args.batch as usize, height, width };
    let most = Limits::default().max_pixels;
    if (height * width) as u64 * u64::from(args.batch) > most {
        let expected = format!("expected at most {} million pixels a call", most / 1_000_000);
        return Err(Failure::usage(format!("--size {height}x{width} --batch {}: {expected}", args.batch)));
    }
    Ok(sizes)
}

/// Standard normal values, as a normalised picture has them.
fn image(cpu: &Cpu, sizes: Sizes, seed: u64) -> Result<Map, Failure> {
    let dims = Dims::new(sizes.batch, sizes.height, sizes.width, 3);
    let mut stream = Stream::new(&[seed, site("bench")]);
    let values: Vec<f32> = (0..dims.volume()).map(|_| stream.normal() as f32).collect();
    Ok(cpu.map(dims, &values)?)
}

/// Passes of one model over one image.
struct Loop<'a> {
    model: &'a dyn Model<Cpu>,
    image: &'a Map,
    iterations: Option<u32>,
    running: &'a dyn Fn() -> Result<(), Failure>,
}

impl Loop<'_> {
    /// One call of what a user calls in a loop: from the map of the image to the map of the logits.
    fn pass(&self, cpu: &Cpu) -> Result<Duration, Failure> {
        (self.running)()?;
        let (model, image) = (self.model, self.image.clone());
        let started = Instant::now();
        let output = awake(|| model.forward(cpu, black_box(image), &mut NoTap))?;
        let time = started.elapsed();
        black_box(output);
        Ok(time)
    }

    fn warm_up(&self, cpu: &Cpu, passes: u32) -> Result<(), Failure> {
        (0..passes).try_for_each(|_| self.pass(cpu).map(|_| ()))
    }

    fn timed(&self, cpu: &Cpu) -> Result<Vec<Duration>, Failure> {
        let (mut times, mut sum) = (Vec::new(), Duration::ZERO);
        loop {
            let enough = match self.iterations {
                Some(wanted) => times.len() >= wanted as usize,
                None => times.len() >= LEAST_PASSES && sum >= LEAST_TIME,
            };
            if enough {
                return Ok(times);
            }
            let time = self.pass(cpu)?;
            sum += time;
            times.push(time);
        }
    }

    /// Further passes under the eyes of an observer, whose clock the timed ones do without.
    fn profiled(&self, cpu: Cpu) -> Result<Profiled, Failure> {
        let profile = Arc::new(Profile::default());
        let cpu = cpu.observed(Arc::clone(&profile) as _);
        let times = self.timed(&cpu)?;
        let (passes, total) = (times.len(), times.iter().sum::<Duration>());
        let total_ms = 1e3 * total.as_secs_f64() / passes.max(1) as f64;
        Ok(Profiled { passes, total_ms, rows: profile.rows(passes, total) })
    }
}

/// Mean passes, operator by operator.
struct Profiled {
    passes: usize,
    total_ms: f64,
    rows: Vec<Row>,
}

struct Measured<'a> {
    model: &'a str,
    sizes: Sizes,
    machine: &'a Machine,
    precision: Precision,
    times: Times,
    /// Multiply-accumulates of one call.
    macs: u64,
    roof_gflops: f64,
    copy_gb_s: f64,
    peak_rss_mb: Option<f64>,
    profiled: Option<Profiled>,
}

impl Measured<'_> {
    /// What multiplies, where it is not the instruction set itself.
    fn unit(&self) -> Option<&'static str> {
        match self.precision {
            Precision::F32 => None,
            Precision::Bf16(unit) => Some(unit.name()),
        }
    }

    fn images_per_s(&self) -> f64 {
        1e3 * self.sizes.batch as f64 / self.times.percentile_ms(50)
    }

    /// Two operations for each multiply-accumulate of convolutions, linear maps and matrix products, and none for the rest.
    fn gflops(&self) -> f64 {
        2.0 * self.macs as f64 / (1e6 * self.times.percentile_ms(50))
    }

    fn roof_share(&self) -> f64 {
        self.gflops() / self.roof_gflops
    }

    fn json(&self) -> Value {
        let mut value = json!({
            "model": self.model,
            "size": [self.sizes.height, self.sizes.width],
            "batch": self.sizes.batch,
            "threads": self.machine.threads,
            "precision": self.precision.name(),
            "unit": self.unit(),
            "isa": self.machine.isa.to_string(),
            "processor": doctor::processor(),
            "iterations": self.times.calls(),
            "p50_ms": self.times.percentile_ms(50),
            "p95_ms": self.times.percentile_ms(95),
            "p99_ms": self.times.percentile_ms(99),
            "images_per_s": self.images_per_s(),
            "gflops": self.gflops(),
            "roof_gflops": self.roof_gflops,
            "roof_share": self.roof_share(),
            "copy_gb_s": self.copy_gb_s,
            "peak_rss_mb": self.peak_rss_mb,
        });
        if let Some(profiled) = &self.profiled {
            let row = |r: &Row| json!({ "operator": r.operator, "output": r.output, "calls": r.calls, "ms": r.ms, "share": r.share });
            let rows: Vec<Value> = profiled.rows.iter().map(row).collect();
            value["profile"] = json!({ "passes": profiled.passes, "total_ms": profiled.total_ms, "rows": rows });
        }
        value
    }

    fn table(&self, terminal: &Terminal) -> Result<(), Failure> {
        let [p50, p95, p99] = [50, 95, 99].map(|percent| self.times.percentile_ms(percent));
        let Sizes { batch, height, width } = self.sizes;
        let Machine { threads, isa } = self.machine;
        let unit = self.unit().map_or(String::new(), |unit| format!(", {unit}"));
        let rows = [
            ("model", format!("{}, {batch} x {height} x {width}, {}", self.model, self.precision.name())),
            ("machine", format!("{}, {}, {isa}{unit}", doctor::processor(), doctor::threads(*threads))),
            ("passes", self.times.calls().to_string()),
            ("p50", format!("{p50:.3} ms a call, {:.2} images a second", self.images_per_s())),
            ("p95, p99", format!("{p95:.3} ms, {p99:.3} ms")),
            ("arithmetic", format!("{:.1} GFLOP/s, {:.1} % of the roof", self.gflops(), 100.0 * self.roof_share())),
            ("roof", format!("{:.1} GFLOP/s of multiply-adds in registers", self.roof_gflops)),
            ("copy", format!("{:.1} GB/s read and written", self.copy_gb_s)),
            ("peak memory", self.peak_rss_mb.map_or("unknown".into(), |mb| format!("{mb:.0} MB resident"))),
        ];
        for (name, value) in rows {
            terminal.result(format_args!("{name:<11} {value}"))?;
        }
        self.profiled.as_ref().map_or(Ok(()), |profiled| profiled.table(terminal))
    }
}

impl Profiled {
    fn table(&self, terminal: &Terminal) -> Result<(), Failure> {
        terminal.result(format_args!("\nmean of {} further passes, operator by operator", self.passes))?;
        terminal.result(format_args!(
            "{:<22} {:>14} {:>6} {:>11} {:>8}",
            "operator", "output", "calls", "ms a pass", "share"
        ))?;
        let line = |operator: &str, output: &str, calls: usize, ms: f64, share: f64| {
            let calls = if calls > 0 { calls.to_string() } else { String::new() };
            terminal.result(format_args!("{operator:<22} {output:>14} {calls:>6} {ms:>11.4} {:>6.2} %", 100.0 * share))
        };
        for row in &self.rows {
            let output = row.output.map_or(String::new(), |[height, width, c]| format!("{height}x{width}x{c}"));
            line(row.operator, &output, row.calls, row.ms, row.share)?;
        }
        line("total", "", self.rows.iter().map(|row| row.calls).sum(), self.total_ms, 1.0)
    }
}

/// The most memory that this process has had, in MB of a million bytes; Linux tells.
fn peak_rss_mb() -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let kib = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?.trim().strip_suffix("kB")?;
    Some(kib.trim().parse::<f64>().ok()? * 1024.0 / 1e6)
}

/// A check that fails once Ctrl-C was pressed.
#[cfg(feature = "train")]
fn until_interrupted() -> Result<impl Fn() -> Result<(), Failure>, Failure> {
    let interrupt = crate::interrupt::Interrupt::listen()?;
    Ok(move || match interrupt.pressed() {
        true => Err(Failure::interrupted("interrupted")),
        false => Ok(()),
    })
}

/// Without training there is no handler: Ctrl-C ends the process by its signal, which shells report as 130 too.
#[cfg(not(feature = "train"))]
fn until_interrupted() -> Result<impl Fn() -> Result<(), Failure>, Failure> {
    Ok(|| Ok(()))
}
