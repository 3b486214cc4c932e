//! Times the S6 scan in Burn's own operators, forward and backward, on inputs from files: one side of `cargo xtask scans`.
//!
//! `portable_scan FOLDER TOKENS CHANNELS STATES THREADS REPEATS`. The folder holds what `scan_speed` of mila-kernels reads, and
//! what that wrote: results and gradients are compared with it first. Medians in ms are printed as JSON.

use std::error::Error;
use std::fs;
use std::path::Path;
use std::time::Instant;

use burn::tensor::{Gradients, Tensor};
use mila_burn::{Burn, Form};
use mila_ops::recurrence::{Delta, Gate, InputGate, Part, Shortcut};
use mila_ops::{Builder, Dims, Executor, Init, Numeric, Recurrence, ScanOrder, Source, Values, Wanted};

/// max|difference| / max|wanted| of results and of gradients: the rows of docs/numerics.md.
const RESULT: f32 = 1e-4;
const GRADIENT: f32 = 1e-3;

/// Values of a file without a header.
struct Folder<'a>(&'a Path);

impl Folder<'_> {
    fn floats(&self, name: &str) -> Result<Vec<f32>, Box<dyn Error>> {
        let bytes = fs::read(self.0.join(name))?;
        Ok(bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect())
    }

    /// Compares what was found with a file.
    fn check(&self, name: &str, found: &[f32], limit: f32) -> Result<(), Box<dyn Error>> {
        let wanted = self.floats(name)?;
        let largest = wanted.iter().fold(0.0_f32, |largest, x| largest.max(x.abs()));
        let distance = wanted.iter().zip(found).fold(0.0_f32, |distance, (a, b)| distance.max((a - b).abs()));
        match wanted.len() == found.len() && distance < limit * largest {
            true => Ok(()),
            false => Err(format!("{name} differs by {distance:e} of {largest:e}").into()),
        }
    }
}

impl Source for Folder<'_> {
    fn load(&self, wanted: &Wanted) -> mila_ops::Result<Values<'_>> {
        let problem = |error: Box<dyn Error>| mila_ops::Error::Parameter {
            name: wanted.name.clone(),
            problem: error.to_string(),
        };
        Ok(Values::F32(self.floats(&wanted.name).map_err(problem)?.into()))
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [folder, numbers @ ..] = &arguments[..] else { return Err("usage: see the source".into()) };
    let numbers: Vec<usize> = numbers.iter().map(|n| n.parse()).collect::<Result<_, _>>()?;
    let [tokens, channels, states, threads, repeats] = numbers[..] else { return Err("usage: see the source".into()) };
    rayon::ThreadPoolBuilder::new().num_threads(threads).build_global()?;
    let folder = Folder(Path::new(folder));

    let mut declared = Burn::declare();
    let mut builder = Builder::new(&mut declared, &folder);
    let bias = builder.parameter("bias", &[channels], Init::Zeros)?;
    let a_log = builder.parameter("a_log", &[channels, states], Init::Zeros)?;
    let d = builder.parameter("d", &[channels], Init::Zeros)?;
    let store = declared.into_store();
    // x, step sizes, B and C.
    let dims = Dims::new(1, 1, tokens, 2 * channels + 2 * states);
    let values = folder.floats("map")?;
    let scan = |burn: &Burn, map: &Tensor<4>| {
        let part = |first: usize, width: usize| Part::Range(map, first..first + width);
        let delta = Delta { raw: part(channels, channels), bias: Some((&bias).into()) };
        let [b, c] = [2 * channels, 2 * channels + states].map(|first| part(first, states));
        let scan = Recurrence {
            gate: Gate::Factored { delta, a_log: (&a_log).into() },
            input_gate: InputGate::OfGate,
            shortcut: Shortcut::Value((&d).into()),
            ..Recurrence::causal(c, b, part(0, channels), ScanOrder::ROWS)
        };
        Ok::<_, mila_ops::Error>(burn.recurrence(&scan)?.0)
    };

    let burn = Burn::eval(store.clone()).with_form(Form::Portable);
    let map = burn.map(dims, &values)?;
    folder.check("y", &burn.read(&scan(&burn, &map)?)?.values, RESULT)?;
    let forward = (0..repeats).map(|_| milliseconds(|| Ok(burn.read(&scan(&burn, &map)?)?)).map(|(ms, _)| ms));
    let forward = forward.collect::<Result<Vec<f64>, Box<dyn Error>>>()?;

    let burn = Burn::train(store.clone(), 0, 0).with_form(Form::Portable);
    let map = burn.map(dims, &values)?.autodiff().require_grad();
    let weights = burn.map(dims.with_channels(channels), &folder.floats("dy")?)?.autodiff();
    let backward = || -> Result<(f64, Gradients), Box<dyn Error>> {
        let loss = (scan(&burn, &map)? * weights.clone()).sum();
        milliseconds(|| Ok(loss.backward()))
    };
    let (_, mut gradients) = backward()?;
    let of_map = map.grad(&gradients).ok_or("the map has no gradient")?;
    folder.check("dmap", &burn.read(&of_map)?.values, GRADIENT)?;
    for name in ["bias", "a_log", "d"] {
        let handle = store.handle(name).ok_or("a parameter is missing")?;
        let found = burn.gradient(handle, &mut gradients)?.ok_or("a parameter has no gradient")?;
        folder.check(&format!("d{name}"), &found, GRADIENT)?;
    }
    let backward = (0..repeats).map(|_| backward().map(|(ms, _)| ms)).collect::<Result<Vec<f64>, _>>()?;
    println!("{{\"forward_ms\": {}, \"backward_ms\": {}}}", median(forward), median(backward));
    Ok(())
}

/// How long `work` takes.
fn milliseconds<T>(work: impl FnOnce() -> Result<T, Box<dyn Error>>) -> Result<(f64, T), Box<dyn Error>> {
    let started = Instant::now();
    let result = work()?;
    Ok((1e3 * started.elapsed().as_secs_f64(), result))
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times.get(times.len() / 2).copied().unwrap_or(f64::NAN)
}
