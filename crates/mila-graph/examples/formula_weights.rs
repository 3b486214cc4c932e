//! Writes weights of a model that leave no parameter at a value that hides it: no norm of one, no bias of zero, no layer
//! scale near zero. `cargo xtask onnx` exports them, so that a wrong or forgotten parameter shows, and `cargo xtask peers`
//! times them.
//!
//! Matrices and kernels are those of the random initialisation, the depthwise 3x3 ones a quarter of it, which keeps a deep
//! model well-conditioned: after the 36 blocks of MILA-S two correct f32 runtimes are 7e-6 apart, but 8e-5 with whole
//! depthwise kernels, whose residual sums nearly cancel in some channels, and 2e-4 with the wider formula of the goldens.
//!
//! ```text
//! cargo run --release -p mila-graph --example formula_weights -- NAME classify|pyramid OUT.safetensors
//! ```

use std::error::Error;
use std::path::Path;

use mila_graph::Trace;
use mila_models::{Preset, Task};
use mila_ops::{Seeded, Source, Values, Wanted};
use mila_parity::Formula;

/// Where values come from.
struct Telling {
    matrices: Seeded,
    vectors: Formula,
}

impl Source for Telling {
    fn load(&self, wanted: &Wanted) -> mila_ops::Result<Values<'_>> {
        // Biases, norms, their statistics, layer scales: what an initialisation sets to zero, one or next to nothing.
        if wanted.shape.len() == 1 {
            return self.vectors.load(wanted);
        }
        let mut values = self.matrices.load(wanted)?.into_f32().into_owned();
        if let [_, 1, 3, 3] = wanted.shape[..] {
            values.iter_mut().for_each(|value| *value *= 0.25);
        }
        Ok(Values::F32(values.into()))
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [name, task, out] = arguments.as_slice() else {
        return Err("expected NAME classify|pyramid OUT.safetensors".into());
    };
    let preset = Preset::find(name)?;
    let task = match task.as_str() {
        "classify" => Task::Classify { classes: preset.classes },
        "pyramid" => Task::Pyramid,
        other => return Err(format!("expected classify or pyramid, found {other}").into()),
    };
    let trace = Trace::of(preset, task)?;
    let source = Telling { matrices: Seeded::new(0), vectors: Formula };
    let values =
        trace.manifest().iter().map(|wanted| Ok((wanted.name.clone(), wanted.shape.clone(), source.fetch(wanted)?)));
    let tensors: Vec<_> = values.collect::<mila_ops::Result<_>>()?;
    mila_weights::write_tensors(Path::new(out), tensors)?;
    Ok(())
}
