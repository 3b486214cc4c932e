//! Milliseconds of one training step of a registered model: `step_speed [MODEL] [SIZE] [BATCH]`.
//!
//! Forward, backward, clipping, AdamW and running statistics; one warm-up, the best and the median of seven steps.

use std::time::Instant;

use mila_burn::{AdamW, ImageBatch, Trainer};
use mila_models::{Preset, Task};
use mila_ops::{Dims, Seeded};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let preset = Preset::find(&arguments.next().unwrap_or_else(|| "mila-t".into()))?;
    let size = arguments.next().map_or(Ok(preset.preprocessing.size), |size| size.parse())?;
    let batch: usize = arguments.next().map_or(Ok(4), |batch| batch.parse())?;
    let task = Task::Classify { classes: preset.classes };
    let build = |burn: &mut mila_burn::Burn| preset.build(burn, &Seeded::new(0), task);
    let mut trainer = Trainer::new(AdamW::default(), Some(5.0), 0, build)?;
    let dims = Dims::new(batch, size, size, 3);
    let images: Vec<f32> = (0..dims.volume()).map(|i| (i as f32 * 0.37).sin()).collect();
    let labels: Vec<u32> = (0..batch as u32).map(|i| i % preset.classes as u32).collect();
    let mut times = Vec::new();
    for _ in 0..8 {
        let started = Instant::now();
        trainer.step(ImageBatch { dims, values: &images }, &labels, 1e-4)?;
        times.push(1e3 * started.elapsed().as_secs_f64());
    }
    times.remove(0);
    times.sort_by(f64::total_cmp);
    println!("{} {size}x{size} batch {batch}: best {:.0}, median {:.0} ms a step", preset.name, times[0], times[3]);
    Ok(())
}
