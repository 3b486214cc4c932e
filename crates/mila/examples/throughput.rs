//! Images a second of the paper's ablation beside what the paper prints: `throughput [BATCH] [ROUNDS]`, which `cargo xtask
//! throughput` runs.
//!
//! Every variant at the paper's size with random weights, all in one process and in turns. Before each pass of a variant there is
//! one of the baseline, and a ratio is that of the two, so what the machine's speed does meanwhile is hardly in it.

use std::error::Error;
use std::hint::black_box;
use std::time::Instant;

use mila::cpu::{Cpu, Map, awake};
use mila::models::{Model, Preset, Task};
use mila::ops::random::Stream;
use mila::ops::{Dims, NoTap, Numeric, Seeded};

const BATCH: usize = 8;
const ROUNDS: usize = 7;
/// The first in the registry is what the others are compared with.
const FAMILY: &str = "ablation-";

struct Variant {
    preset: &'static Preset,
    /// What the paper prints.
    published: f64,
    model: Box<dyn Model<Cpu>>,
    /// Seconds of a pass of the baseline, and of the pass of its own that followed, round by round.
    pairs: Vec<[f64; 2]>,
}

impl Variant {
    /// Seconds of a pass.
    fn pass(&self, cpu: &Cpu, image: &Map) -> mila::ops::Result<f64> {
        let (model, image) = (&*self.model, image.clone());
        let started = Instant::now();
        let output = awake(|| model.forward(cpu, black_box(image), &mut NoTap))?;
        let time = started.elapsed().as_secs_f64();
        black_box(output);
        Ok(time)
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let batch: usize = arguments.next().map_or(Ok(BATCH), |batch| batch.parse())?;
    let rounds: usize = arguments.next().map_or(Ok(ROUNDS), |rounds| rounds.parse())?;
    if batch == 0 || rounds == 0 {
        return Err("expected at least one image and one round".into());
    }
    let mut cpu = Cpu::default();
    let mut variants = Vec::new();
    for preset in Preset::all().filter(|preset| preset.name.starts_with(FAMILY)) {
        let Some(published) = preset.published.and_then(|published| published.images_per_s) else { continue };
        eprintln!("preparing {}", preset.name);
        let model = preset.build(&mut cpu, &Seeded::new(0), Task::Classify { classes: preset.classes })?;
        variants.push(Variant { preset, published: f64::from(published), model, pairs: Vec::new() });
    }
    let size = variants.first().ok_or("no variant has published numbers")?.preset.preprocessing.size;
    let dims = Dims::new(batch, size, size, 3);
    let mut stream = Stream::new(&[0]);
    let image = cpu.map(dims, &(0..dims.volume()).map(|_| stream.normal() as f32).collect::<Vec<_>>())?;
    // The first round, which makes buffers and tables, is not counted.
    for round in 0..=rounds {
        eprintln!("round {round} of {rounds}");
        for i in 0..variants.len() {
            let pair = [variants[0].pass(&cpu, &image)?, variants[i].pass(&cpu, &image)?];
            if round > 0 {
                variants[i].pairs.push(pair);
            }
        }
    }
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    println!(
        "{size}x{size}, batch {batch}, f32, {}, {threads} threads: medians of {rounds} rounds in turns.\n\n{}",
        cpu.isa(),
        table(&variants, batch)
    );
    Ok(())
}

fn table(variants: &[Variant], batch: usize) -> String {
    let mut table = String::from(
        "| variant | images/s | of the baseline | least to most | paper, images/s | of its baseline |\n|---|---|---|---|---|---|\n",
    );
    let Some(baseline) = variants.first() else { return table };
    for variant in variants {
        let ratios = sorted(variant.pairs.iter().map(|[baseline, own]| baseline / own).collect());
        let images_per_s = batch as f64 / median(&sorted(variant.pairs.iter().map(|[_, own]| *own).collect()));
        let (least, most) = (ratios[0], ratios[ratios.len() - 1]);
        table += &format!(
            "| `{}` | {images_per_s:.2} | {:.2} | {least:.2} to {most:.2} | {} | {:.2} |\n",
            variant.preset.name.trim_start_matches(FAMILY),
            median(&ratios),
            variant.published,
            variant.published / baseline.published
        );
    }
    table
}

fn sorted(mut values: Vec<f64>) -> Vec<f64> {
    values.sort_by(f64::total_cmp);
    values
}

/// Of sorted values.
fn median(sorted: &[f64]) -> f64 {
    sorted[sorted.len() / 2]
}
