//! `mila doctor`: what this machine offers, and a small speed test.

use std::time::Instant;

use mila::cpu::{Isa, Level};
use mila_kernels::{Epilogue, PackedMatrix, linear};

use crate::cli::Machine;
use crate::failure::Failure;
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
        ("temporary", writable()),
    ];
    for (name, value) in rows {
        terminal.result(format_args!("{name:<10} {value}"))?;
    }
    terminal.result("")?;
    for level in Level::ALL {
        match Isa::new(level) {
            Some(isa) => {
                terminal.result(format_args!("{level:<10} linear 784x128x512: {:.0} GFLOP/s", linear_speed(isa)))?
            }
            None => terminal.result(format_args!("{level:<10} not on this processor"))?,
        }
    }
    terminal.result(format_args!("{:<10} {:.1} GB/s read and written", "copy", copy_speed()))
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

/// The best of several runs, in units of `work` per second.
fn best(work: f64, mut run: impl FnMut()) -> f64 {
    let mut least = f64::INFINITY;
    for _ in 0..20 {
        let started = Instant::now();
        run();
        least = least.min(started.elapsed().as_secs_f64());
    }
    work / least.max(1e-9)
}

/// GFLOP/s of a linear layer of MILA-T's second stage on all threads.
fn linear_speed(isa: Isa) -> f64 {
    let (rows, inputs, outputs) = (784, 128, 512);
    let x = vec![0.5; rows * inputs];
    let weight = PackedMatrix::from_columns(&vec![0.25; inputs * outputs], outputs, inputs);
    let mut y = vec![0.0; rows * outputs];
    let flops = 2.0 * (rows * inputs * outputs) as f64;
    best(flops / 1e9, || {
        linear::forward(isa, &x, &weight, Epilogue::default(), &mut y);
        std::hint::black_box(&mut y);
    })
}

/// GB/s of copying 64 MiB on one thread, counting what is read and what is written.
fn copy_speed() -> f64 {
    let from = vec![1u8; 64 << 20];
    let mut to = vec![0u8; from.len()];
    best(2.0 * from.len() as f64 / 1e9, || {
        to.copy_from_slice(std::hint::black_box(&from));
        std::hint::black_box(&mut to);
    })
}
