//! One forward pass of a registered model, for those who count its instructions: `one_pass MODEL SIZE`.
//!
//! `cargo xtask instructions` runs it under Callgrind and counts what happens inside `counted_pass`. AVX2, since Valgrind
//! knows no AVX-512; on the one thread of a pool, or what several threads share out would be done, uncounted, on another. The
//! values of the weights do not matter, so they are the cheapest that there are.

use mila_cpu::{Cpu, Isa, Level, Map};
use mila_models::{Model, Output, Preset, Task};
use mila_ops::{Dims, NoTap, Numeric, Result, Source, Values, Wanted};

fn main() -> std::result::Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(name), Some(size)) = (arguments.next(), arguments.next()) else {
        return Err("usage: one_pass MODEL SIZE".into());
    };
    let (preset, size) = (Preset::find(&name)?, size.parse()?);
    let isa = Isa::new(Level::Avx2).ok_or("this processor has no AVX2")?;
    let mut cpu = Cpu::new(isa);
    let model = preset.build(&mut cpu, &Constant, Task::Classify { classes: preset.classes })?;
    let dims = Dims::new(1, size, size, 3);
    let image = cpu.map(dims, &vec![0.5; dims.volume()])?;
    // The first pass makes buffers and tables that the later ones find.
    model.forward(&cpu, image.clone(), &mut NoTap)?;
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build()?;
    std::hint::black_box(pool.install(|| counted_pass(&*model, &cpu, image))?);
    Ok(())
}

#[inline(never)]
fn counted_pass(model: &dyn Model<Cpu>, cpu: &Cpu, image: Map) -> Result<Output<Map>> {
    model.forward(cpu, std::hint::black_box(image), &mut NoTap)
}

/// One value for everything; not zero, which a variance must not be.
struct Constant;

impl Source for Constant {
    fn load(&self, wanted: &Wanted) -> Result<Values<'_>> {
        Ok(Values::F32(vec![0.01; wanted.volume()].into()))
    }
}
