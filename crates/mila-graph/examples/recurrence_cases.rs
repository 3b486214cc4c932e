//! Writes recurrences of every kind as ONNX, with inputs, and outputs of the f64 reference: for `cargo xtask onnx`.
//!
//! ```text
//! cargo run --release -p mila-graph --example recurrence_cases -- FOLDER
//! ```
//!
//! A case `N` is `N.fixed.onnx`, `N.dynamic.onnx` unless its order needs a size, and `N.0.npy`, `N.1.npy` for the inputs that
//! the model has, `N.y.npy`, `N.state.npy` for its outputs. What an export refuses is said on stderr.

use std::error::Error;
use std::io::Write;
use std::path::Path;

use mila_graph::onnx::Extents;
use mila_graph::{Extent, Graph, Sizes, Symbol, Trace};
use mila_ops::recurrence::StateAt;
use mila_ops::reference::{Array, Reference};
use mila_ops::{Builder, Dims, Executor, Init, Source, Values, Wanted};
use mila_parity::{RecurrenceCase, StartKind};

const SIZES: Sizes = Sizes { batch: 2, height: 5, width: 6 };

/// The one parameter of a case.
struct Stored(Vec<f64>);

impl Source for Stored {
    fn load(&self, _: &Wanted) -> mila_ops::Result<Values<'_>> {
        Ok(Values::F64(self.0.as_slice().into()))
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [folder] = arguments.as_slice() else { return Err("expected FOLDER".into()) };
    for (number, case) in RecurrenceCase::all().into_iter().enumerate() {
        let case = RecurrenceCase { state: StateAt::Last, ..case };
        write(&Path::new(folder).join(number.to_string()), &case)?;
    }
    Ok(())
}

fn write(path: &Path, case: &RecurrenceCase) -> Result<(), Box<dyn Error>> {
    let dims = Dims::new(SIZES.batch, SIZES.height, SIZES.width, case.channels());
    let operands = case.operands(dims);
    let map = Array::new(dims, operands.map);
    let start = Array::new(case.state_dims(SIZES.batch), operands.start);
    let source = Stored(operands.parameters);
    let parameters = source.0.clone().into();
    let (y, state) = Reference::<f64>::eval().recurrence(&case.recurrence(&map, &parameters, &start))?;

    let mut graph = Graph::default();
    let parameter = Builder::new(&mut graph, &source).parameter("mixer.all", &[case.parameters()], Init::Zeros)?;
    let image = graph.image(case.channels());
    let carried = case.start == StartKind::Carried;
    let state_extents = [Extent::of(Symbol::Batch), Extent::Number(case.heads), Extent::Number(case.keys)];
    let given = if carried { graph.input(state_extents, start.dims.channels) } else { image.clone() };
    let found = graph.recurrence(&case.recurrence(&image, &parameter, &given))?;
    let with_state = Trace::of_graph(graph, vec![found.0.id, found.1.id]);
    for (name, extents) in [("fixed", Extents::Fixed(SIZES)), ("dynamic", Extents::Dynamic)] {
        let exported = with_state.onnx(extents);
        match exported {
            Err(error) => eprintln!("{} {name}: {error}", path.display()),
            Ok(onnx) => {
                let mut file = Vec::new();
                onnx.write(&source, &mut file)?;
                std::fs::write(path.with_extension(format!("{name}.onnx")), file)?;
            }
        }
    }
    let inputs = if carried { vec![("0", &map), ("1", &start)] } else { vec![("0", &map)] };
    for (name, array) in inputs.into_iter().chain([("y", &y), ("state", &state)]) {
        std::fs::write(path.with_extension(format!("{name}.npy")), npy(array)?)?;
    }
    Ok(())
}

/// `[batch, channels, height, width]` in f32, as numpy stores it.
fn npy(array: &Array<f64>) -> Result<Vec<u8>, Box<dyn Error>> {
    let Dims { batch, height, width, channels } = array.dims;
    let header =
        format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({batch}, {channels}, {height}, {width}), }}");
    let padded = (header.len() + 11).next_multiple_of(64) - 10;
    let mut file = b"\x93NUMPY\x01\x00".to_vec();
    file.extend_from_slice(&u16::try_from(padded)?.to_le_bytes());
    writeln!(file, "{header:<width$}", width = padded - 1)?;
    let at = |b: usize, c: usize, n: usize| array.values[(b * height * width + n) * channels + c] as f32;
    for b in 0..batch {
        for c in 0..channels {
            (0..height * width).for_each(|n| file.extend_from_slice(&at(b, c, n).to_le_bytes()));
        }
    }
    Ok(file)
}
