//! Parameter values, apart from the models that use them.

use std::collections::HashMap;
use std::sync::Arc;

use burn::tensor::{Device, Tensor, TensorData};
use mila_ops::{Error, Kind, Result, Source, Wanted};

/// A tensor of a store. One name has one handle, so weights can be shared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Handle(pub(crate) usize);

/// Named values in the order in which a model asked for them. Cloning shares the values.
///
/// Values are kept flat, without autodiff, in the layouts of the released checkpoints. An average of a model's weights
/// is another store for the same model.
#[derive(Clone, Debug)]
pub struct Store {
    device: Device,
    wanted: Arc<Vec<Wanted>>,
    names: Arc<HashMap<String, usize>>,
    values: Vec<Tensor<1>>,
}

impl Store {
    pub(crate) fn new(device: Device) -> Self {
        Self { device, wanted: Arc::default(), names: Arc::default(), values: Vec::new() }
    }

    /// The handle of `wanted`, loaded from `source` unless its name is known already.
    pub(crate) fn declare(&mut self, wanted: Wanted, source: &dyn Source) -> Result<Handle> {
        if let Some(&index) = self.names.get(&wanted.name) {
            let known = &self.wanted[index];
            if known.shape != wanted.shape {
                let problem = format!("asked for as {:?} and as {:?}", known.shape, wanted.shape);
                return Err(Error::parameter(&wanted.name, problem));
            }
            return Ok(Handle(index));
        }
        let values = source.fetch(&wanted)?.into_f32();
        self.values.push(Tensor::from_floats(values.as_ref(), &self.device));
        Arc::make_mut(&mut self.names).insert(wanted.name.clone(), self.values.len() - 1);
        Arc::make_mut(&mut self.wanted).push(wanted);
        Ok(Handle(self.values.len() - 1))
    }

    /// What the model asked for, in order.
    pub fn manifest(&self) -> &[Wanted] {
        &self.wanted
    }

    /// The handle of a name.
    pub fn handle(&self, name: &str) -> Option<Handle> {
        self.names.get(name).copied().map(Handle)
    }

    /// Values of the tensor behind `handle`, row-major in its shape.
    ///
    /// # Errors
    /// [`Error::Backend`] if the device cannot be read.
    pub fn read(&self, handle: Handle) -> Result<Vec<f32>> {
        crate::executor::values(self.values[handle.0].clone())
    }

    /// Replaces the values of the tensor behind `handle`.
    ///
    /// # Errors
    /// [`Error::Parameter`] for another number of values.
    pub fn write(&mut self, handle: Handle, values: &[f32]) -> Result<()> {
        let wanted = &self.wanted[handle.0];
        if values.len() != wanted.volume() {
            let problem = format!("expected {} values, found {}", wanted.volume(), values.len());
            return Err(Error::parameter(&wanted.name, problem));
        }
        self.values[handle.0] = Tensor::from_floats(values, &self.device);
        Ok(())
    }

    pub(crate) fn device(&self) -> &Device {
        &self.device
    }

    pub(crate) fn handles(&self, kind: Kind) -> impl Iterator<Item = Handle> {
        self.wanted.iter().enumerate().filter(move |(_, w)| w.kind == kind).map(|(i, _)| Handle(i))
    }

    pub(crate) fn value(&self, handle: Handle) -> Tensor<1> {
        self.values[handle.0].clone()
    }

    /// Takes the values out; [`put`](Self::put) has to follow. Nothing is copied where nothing else holds them.
    pub(crate) fn take(&mut self, handle: Handle) -> Result<Vec<f32>> {
        let hole = Tensor::zeros([1], &self.device);
        crate::executor::values(std::mem::replace(&mut self.values[handle.0], hole))
    }

    /// Puts values in the place of those taken out.
    pub(crate) fn put(&mut self, handle: Handle, values: Vec<f32>) {
        let shape = [values.len()];
        self.values[handle.0] = Tensor::from_data(TensorData::new(values, shape), &self.device);
    }

    pub(crate) fn len(&self) -> usize {
        self.values.len()
    }
}
