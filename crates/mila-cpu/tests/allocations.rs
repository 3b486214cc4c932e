//! A pass allocates nothing once the pass before has left its memory behind: of maps below 4 MiB, whose larger kind has a
//! counter made for each, and of heads that need no packing.

use mila_cpu::Cpu;
use mila_models::{Preset, Task};
use mila_ops::{Dims, NoTap, Numeric, Seeded};

#[test]
fn the_second_pass_allocates_nothing() -> Result<(), Box<dyn std::error::Error>> {
    // On one thread: what a thread pool allocates for itself depends on its timing.
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build()?;
    for (name, height, width) in
        [("mila-t", 64, 64), ("mila-t", 97, 161), ("convnext-t", 64, 64), ("mambaout-t", 64, 64), ("swin-t", 97, 161)]
    {
        let preset = Preset::find(name)?;
        let mut cpu = Cpu::default();
        let model = preset.build(&mut cpu, &Seeded::new(0), Task::Classify { classes: preset.classes })?;
        let dims = Dims::new(2, height, width, 3);
        let image = cpu.map(dims, &vec![0.5; dims.volume()])?;
        let counted = pool.install(|| -> mila_ops::Result<_> {
            for _ in 0..2 {
                model.forward(&cpu, image.clone(), &mut NoTap)?;
            }
            let mut logits = None;
            let counted = allocation_counter::measure(|| logits = Some(model.forward(&cpu, image.clone(), &mut NoTap)));
            logits.transpose()?;
            Ok(counted)
        })?;
        assert_eq!(counted.count_total, 0, "{name} at {height}x{width}: {counted:?}");
    }
    Ok(())
}
