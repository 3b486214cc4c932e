//! Times the S6 scan, forward and backward, on inputs from files: one side of `cargo xtask scans`.
//!
//! `scan_speed FOLDER TOKENS CHANNELS STATES THREADS REPEATS`. The folder holds f32 values without a header: `map`
//! `[tokens, 2 channels + 2 states]` (x, the step sizes before their softplus, B and C side by side), `bias` and `d` `[channels]`,
//! `a_log` `[channels, states]` and `dy` `[tokens, channels]`. What is computed goes to `y`, `dmap`, `dbias`, `dd` and `da_log`
//! there; medians in ms and the machine's roofs are printed as JSON.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Instant,
};

use mila_kernels::{
    Isa,
    recurrence::{self, Decay, Delta, Gradients, Input, Normaliser, Recurrence, Rows, Walk},
    roof,
};

/// Steps of a chain of multiply-adds: some milliseconds.
const FMA_STEPS: usize = 1 << 20;
/// Floats that are copied: 64 MiB, more than caches hold.
const COPIED: usize = 1 << 24;

struct Sizes {
    tokens: usize,
    channels: usize,
    states: usize,
    repeats: usize,
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [folder, numbers @ ..] = &arguments[..] else { return Err("usage: see the source".into()) };
    let numbers: Vec<usize> = numbers.iter().map(|n| n.parse()).collect::<Result<_, _>>()?;
    let [tokens, channels, states, threads, repeats] = numbers[..] else { return Err("usage: see the source".into()) };
    let sizes = Sizes { tokens, channels, states, repeats };
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build()?;
    pool.install(|| times(Path::new(folder), &sizes))?;
    Ok(())
}

fn times(folder: &Path, sizes: &Sizes) -> io::Result<()> {
    let Sizes { tokens, channels, states, repeats } = *sizes;
    let isa = Isa::detect();
    let at = |name: &str| folder.join(name);
    let [map, bias, d, a_log, dy] = ["map", "bias", "d", "a_log", "dy"].map(|name| floats(at(name)));
    let (map, bias, d, a_log, dy) = (map?, bias?, d?, a_log?, dy?);
    let rows = |first| Rows { values: &map, stride: 2 * channels + 2 * states, first };
    let index: Vec<u32> = (0..).take(tokens).collect();
    let scan = Recurrence {
        batch: 1,
        tokens,
        heads: 1,
        keys: states,
        values: channels,
        walk: Walk::Steps { index: &index, starts: &[0], until: tokens },
        q: rows(2 * channels + states),
        k: rows(2 * channels),
        v: rows(0),
        decay: Decay::Factored { delta: Delta { raw: rows(channels), bias: Some(&bias) }, a_log: &a_log },
        input: Input::OfDecay,
        bonus: None,
        normaliser: Normaliser::None,
        shortcut: Some((&d, rows(0))),
        start: None,
    };
    let zeros = |len: usize| vec![0.0_f32; len];
    let mut y = zeros(tokens * channels);
    let forward_ms = median(repeats, || recurrence::forward(isa, std::slice::from_ref(&scan), &mut y, None));
    let (mut dmap, mut dbias, mut da_log, mut dd) =
        (zeros(map.len()), zeros(bias.len()), zeros(a_log.len()), zeros(d.len()));
    let no_states = zeros(scan.state_len());
    let backward_ms = median(repeats, || {
        let mut gradients = Gradients {
            map: &mut dmap,
            decay_bias: &mut dbias,
            a_log: &mut da_log,
            input_bias: &mut [],
            bonus: &mut [],
            d: &mut dd,
            start: &mut [],
        };
        recurrence::backward(isa, &scan, &dy, &no_states, &mut gradients);
    });
    let results = [("y", &y), ("dmap", &dmap), ("dbias", &dbias), ("da_log", &da_log), ("dd", &dd)];
    for (name, values) in results {
        fs::write(at(name), values.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<_>>())?;
    }
    let operations = roof::fma(isa, FMA_STEPS) as f64;
    let fma_ms = median(5, || {
        roof::fma(isa, FMA_STEPS);
    });
    let (from, mut to) = (vec![1.0; COPIED], zeros(COPIED));
    let copy_ms = median(5, || roof::copy(&from, &mut to));
    println!(
        "{{\"isa\": \"{isa}\", \"forward_ms\": {forward_ms}, \"backward_ms\": {backward_ms}, \"roof_gflops\": {}, \"copy_gbs\": {}}}",
        operations / fma_ms / 1e6,
        8.0 * COPIED as f64 / copy_ms / 1e6
    );
    Ok(())
}

fn floats(path: PathBuf) -> io::Result<Vec<f32>> {
    let bytes = fs::read(path)?;
    Ok(bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect())
}

/// The median time of `repeats` calls after one, in ms.
fn median(repeats: usize, mut body: impl FnMut()) -> f64 {
    body();
    let mut times: Vec<f64> = (0..repeats.max(1))
        .map(|_| {
            let start = Instant::now();
            body();
            1e3 * start.elapsed().as_secs_f64()
        })
        .collect();
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}
