//! Milliseconds per image of a registered model's forward pass: `forward_speed [MODEL] [SIZE] [BATCH]`.
//!
//! Random weights, one warm-up, the median and the best of twenty passes on rayon's default pool.

use std::time::Instant;

use mila_cpu::Cpu;
use mila_models::{Preset, Task};
use mila_ops::{Dims, NoTap, Numeric, Seeded};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let preset = Preset::find(&arguments.next().unwrap_or_else(|| "mila-t".into()))?;
    let size = arguments.next().map_or(Ok(preset.preprocessing.size), |size| size.parse())?;
    let batch = arguments.next().map_or(Ok(1), |batch| batch.parse())?;
    let mut cpu = Cpu::default();
    let model = preset.build(&mut cpu, &Seeded::new(0), Task::Classify { classes: preset.classes })?;
    let dims = Dims::new(batch, size, size, 3);
    let image = cpu.map(dims, &vec![0.5; dims.volume()])?;
    model.forward(&cpu, image.clone(), &mut NoTap)?;
    let mut times = Vec::new();
    for _ in 0..20 {
        let image = image.clone();
        let started = Instant::now();
        model.forward(&cpu, image, &mut NoTap)?;
        times.push(1e3 * started.elapsed().as_secs_f64() / batch as f64);
    }
    times.sort_by(f64::total_cmp);
    println!("{} {size}x{size} batch {batch}: median {:.1}, best {:.1} ms an image", preset.name, times[10], times[0]);
    Ok(())
}
