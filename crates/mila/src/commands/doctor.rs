//! `mila doctor`: what this machine offers, and how fast it is.

use mila::cpu::{Bf16Unit, Isa, Level};
use mila_kernels::{Epilogue, PackedMatrix, linear};

use crate::cli::Machine;
use crate::failure::Failure;
use crate::roofs::{self, Copying};
use crate::terminal::Terminal;

pub(crate) fn run(machine: &Machine, terminal: &Terminal) -> Result<(), Failure> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let features =
        if cfg!(feature = "train") { "inference and training (Burn 0.22.1 on the CPU)" } else { "inference" };
    let rows = [
        ("mila", format!("{} for {}", env!("CARGO_PKG_VERSION"), features)),
        ("system", format!("{} on {}", std::env::consts::OS, std::env::consts::ARCH)),
        ("processor", processor()),
        ("threads", format!("{} of {cores} that this process may use", machine.threads)),
        ("kernels", format!("{} (--isa)", machine.isa)),
        (
            "bf16",
            machine.isa.bf16().map_or("not on this processor".into(), |unit| format!("{unit} (--precision bf16)")),
        ),
        ("temporary", writable()),
    ];
    for (name, value) in rows {
        terminal.result(format_args!("{name:<10} {value}"))?;
    }
    speeds(machine, terminal)
}

/// The roofs on one thread and on all, and how near a layer comes to them.
fn speeds(machine: &Machine, terminal: &Terminal) -> Result<(), Failure> {
    let alone = rayon::ThreadPoolBuilder::new().num_threads(1).build().map_err(Failure::run)?;
    let all = threads(machine.threads);
    terminal.result(format_args!("\n{:<12} {:>8} {all:>12}    {LAYER}, {all}", "roofs", "1 thread"))?;
    for level in Level::ALL {
        let Some(isa) = Isa::new(level) else {
            terminal.result(format_args!("{level:<12} not on this processor"))?;
            continue;
        };
        let one = alone.install(|| roofs::multiply_adds(isa));
        let (roof, layer) = (roofs::multiply_adds(isa), linear_speed(isa, None));
        terminal.result(format_args!("{level:<12} {one:>8.0} {roof:>12.0}    {}", reached(layer, roof)))?;
    }
    for unit in Bf16Unit::available(Isa::detect()) {
        let one = alone.install(|| roofs::bf16_multiply_adds(unit));
        let (roof, layer) = (roofs::bf16_multiply_adds(unit), linear_speed(Isa::detect(), Some(unit)));
        terminal.result(format_args!("{unit:<12} {one:>8.0} {roof:>12.0}    {}", reached(layer, roof)))?;
    }
    let mut copying = Copying::new();
    let one = alone.install(|| copying.speed());
    let all = copying.speed();
    terminal.result(format_args!("{:<12} {one:>8.1} {all:>12.1}    GB/s read and written", "copy"))?;
    terminal.result("roofs of instruction sets and units: GFLOP/s of multiply-adds in registers")
}

fn reached(layer: f64, roof: f64) -> String {
    format!("{layer:.0} GFLOP/s, {:.0} % of the roof", 100.0 * layer / roof)
}

/// `1 thread`, `2 threads`.
pub(crate) fn threads(count: usize) -> String {
    format!("{count} thread{}", if count == 1 { "" } else { "s" })
}

/// The processor's own name.
pub(crate) fn processor() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
    name.map_or_else(|| "unknown".to_owned(), |(_, name)| name.trim().to_owned())
}

fn writable() -> String {
    let folder = std::env::temp_dir();
    match tempfile::NamedTempFile::new_in(&folder) {
        Ok(_) => format!("{} is writable", folder.display()),
        Err(error) => format!("{}: {error}", folder.display()),
    }
}

/// The layer of [`linear_speed`].
const LAYER: &str = "a linear layer, 784x128x512";

/// GFLOP/s of a linear layer of MILA-T's second stage on all threads.
fn linear_speed(isa: Isa, unit: Option<Bf16Unit>) -> f64 {
    let (rows, inputs, outputs) = (784, 128, 512);
    let x = vec![0.5; rows * inputs];
    let weight = PackedMatrix::from_columns(isa, &vec![0.25; inputs * outputs], outputs, inputs);
    let weight = match unit {
        None => weight,
        Some(unit) => weight.into_bf16(unit),
    };
    let mut y = vec![0.0; rows * outputs];
    let run = || {
        linear::forward(isa, &x, &weight, Epilogue::default(), &mut y);
        std::hint::black_box(&mut y);
        2.0 * (rows * inputs * outputs) as f64
    };
    roofs::best(50, run) / 1e9
}
