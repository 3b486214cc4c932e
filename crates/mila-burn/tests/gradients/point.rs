//! Where a gradient is taken: the values of all inputs and parameters, which finite differences move one by one.

use std::borrow::Cow;

use mila_ops::random::{Stream, site};
use mila_ops::reference::Array;
use mila_ops::{Dims, Error, Kind, Result, Source, Values, Wanted};

/// Step of the central differences. In f64 both their errors are near 1e-10: the third derivative's and rounding's.
const STEP: f64 = 1e-5;
/// Entries of a tensor that are differentiated one by one.
const ENTRIES: usize = 96;

/// A tensor that a loss depends on.
#[derive(Clone, Debug)]
pub(crate) struct Variable {
    /// Parameter name, or `input.0`, `input.1`.
    pub(crate) name: String,
    /// Extent of an input; none for a parameter.
    pub(crate) dims: Option<Dims>,
    /// Whether gradients flow to it: running statistics have none.
    pub(crate) trained: bool,
    /// Values, row-major.
    pub(crate) values: Vec<f64>,
}

impl Variable {
    /// A parameter or buffer.
    pub(crate) fn parameter(wanted: &Wanted, values: &[f32]) -> Self {
        let values = values.iter().map(|&v| f64::from(v)).collect();
        Self { name: wanted.name.clone(), dims: None, trained: wanted.kind == Kind::Parameter, values }
    }

    /// The input map `index`.
    pub(crate) fn input(index: usize, dims: Dims, values: &[f32]) -> Self {
        let values = values.iter().map(|&v| f64::from(v)).collect();
        Self { name: format!("input.{index}"), dims: Some(dims), trained: true, values }
    }
}

/// Values of all variables.
#[derive(Clone, Debug)]
pub(crate) struct Point(pub(crate) Vec<Variable>);

impl Point {
    /// The inputs as maps.
    pub(crate) fn inputs(&self) -> Vec<Array<f64>> {
        self.0.iter().filter_map(|v| Some(Array::new(v.dims?, v.values.clone()))).collect()
    }

    /// The derivative of `loss` for entry `index` of a variable.
    pub(crate) fn entry(&mut self, variable: usize, index: usize, loss: &dyn Fn(&Self) -> f64) -> f64 {
        let value = self.0[variable].values[index];
        let [above, below] = [STEP, -STEP].map(|step| {
            self.0[variable].values[index] = value + step;
            loss(self)
        });
        self.0[variable].values[index] = value;
        (above - below) / (2.0 * STEP)
    }

    /// The derivative of `loss` along `direction`, which is as long as the variable.
    pub(crate) fn along(&mut self, variable: usize, direction: &[f64], loss: &dyn Fn(&Self) -> f64) -> f64 {
        let values = self.0[variable].values.clone();
        let [above, below] = [STEP, -STEP].map(|step| {
            self.0[variable].values = values.iter().zip(direction).map(|(v, d)| v + step * d).collect();
            loss(self)
        });
        self.0[variable].values = values;
        (above - below) / (2.0 * STEP)
    }
}

impl Source for Point {
    fn load(&self, wanted: &Wanted) -> Result<Values<'_>> {
        let variable = self.0.iter().find(|v| v.name == wanted.name);
        let variable = variable.ok_or_else(|| Error::parameter(&wanted.name, "not a variable of this point"))?;
        Ok(Values::F64(Cow::Borrowed(&variable.values)))
    }
}

/// Up to `limit` indices below `count`, one at random from each of as many equal parts, and all where they fit.
pub(crate) fn sample(name: &str, count: usize, limit: usize) -> Vec<usize> {
    if count <= limit {
        return (0..count).collect();
    }
    let mut stream = Stream::new(&[site(name)]);
    let bound = |part: usize| part * count / limit;
    (0..limit).map(|part| bound(part) + stream.next() as usize % (bound(part + 1) - bound(part))).collect()
}

/// The indices of a tensor that are differentiated one by one.
pub(crate) fn entries(name: &str, count: usize) -> Vec<usize> {
    sample(name, count, ENTRIES)
}

/// A vector of ones with random signs: a derivative along it sees every entry.
pub(crate) fn signs(name: &str, count: usize) -> Vec<f64> {
    let mut stream = Stream::new(&[site(name), 1]);
    (0..count).map(|_| if stream.uniform() < 0.5 { -1.0 } else { 1.0 }).collect()
}

/// Weights that turn an output into a loss, uniform on `[-1, 1]` and exact in f32.
pub(crate) fn loss_weights(output: usize, count: usize) -> Vec<f32> {
    let mut stream = Stream::new(&[site("loss"), output as u64]);
    (0..count).map(|_| (2.0 * stream.uniform() - 1.0) as f32).collect()
}
