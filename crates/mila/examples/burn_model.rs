//! A model in Burn's own operators, as one of the runtimes of `cargo xtask peers`.
//!
//! `burn_model MODEL WEIGHTS X.npy Y.npy THREADS`: the logits for the pictures X, `[batch, 3, height, width]`, go to Y. Then a line
//! tells the version, and each line `WARM-UP PASSES` on stdin is answered by one with the milliseconds of each pass, as
//! `tools/peers.py` does.

use std::error::Error;
use std::path::Path;
use std::time::Instant;

use mila::burn::{Burn, Form};
use mila::models::{Preset, Task};
use mila::npy;
use mila::ops::{Dims, NoTap, Numeric};
use mila::weights::{Checkpoint, Which};
use serde_json::json;

/// The version of Burn that the workspace pins, and its backend.
const VERSION: &str = "0.22.1, Flex";

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [model, weights, input, output, threads] = &arguments[..] else { return Err("usage: see the source".into()) };
    rayon::ThreadPoolBuilder::new().num_threads(threads.parse()?).build_global()?;
    let preset = Preset::find(model)?;
    let checkpoint = Checkpoint::open(weights.as_ref(), Which::Raw)?;
    let mut burn = Burn::declare().with_form(Form::Portable);
    let model = preset.build(&mut burn, &checkpoint, Task::Classify { classes: preset.classes })?;
    let burn = burn.evaluating();

    let ([batch, _, height, width], planes) = npy::read4(Path::new(input))?;
    let image = burn.map(Dims::new(batch, height, width, 3), &npy::interleaved(&planes, batch, height * width))?;
    let logits = || -> Result<Vec<f32>, Box<dyn Error>> {
        let logits = model.forward(&burn, image.clone(), &mut NoTap)?.logits().ok_or("a classifier gives logits")?;
        Ok(burn.read(&logits)?.values)
    };
    npy::write(Path::new(output), &[batch, preset.classes], &logits()?)?;
    println!("{}", json!({ "version": VERSION }));

    for request in std::io::stdin().lines() {
        let numbers: Vec<usize> = request?.split_whitespace().map(str::parse).collect::<Result<_, _>>()?;
        let [warm_up, passes] = numbers[..] else { return Err("expected WARM-UP PASSES".into()) };
        let mut times = Vec::new();
        for _ in 0..warm_up + passes {
            let started = Instant::now();
            logits()?;
            times.push(1e3 * started.elapsed().as_secs_f64());
        }
        println!("{}", json!(times[warm_up..]));
    }
    Ok(())
}
