//! Values in and out.

use mila_ops::reference::Array;
use mila_ops::{Dims, Numeric, Result, shape};

use crate::buffer::Map;
use crate::executor::Cpu;
use crate::prepared::Table;

impl Numeric for Cpu {
    fn map(&self, dims: Dims, values: &[f32]) -> Result<Map> {
        shape::input(dims, values.len())?;
        Ok(self.written(dims, |map| map.copy_from_slice(values)))
    }

    fn read(&self, map: &Map) -> Result<Array<f32>> {
        Ok(Array { dims: map.dims(), values: map.values().to_vec() })
    }

    fn read_parameter(&self, parameter: &Table) -> Result<Vec<f32>> {
        Ok(parameter.values.clone())
    }
}
