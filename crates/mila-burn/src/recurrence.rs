//! Recurrences: packed for the one custom operation, or in Burn's own operators.
//!
//! The custom operation has three inputs and one output. So the maps of a recurrence are laid side by side along the channels,
//! its parameters one after another, and its output comes before its state; Burn's own operators take them apart.

mod kernel;
mod portable;

use std::ops::Range;
use std::sync::Arc;

use burn::tensor::Tensor;
use mila_ops::recurrence::{self, Gate, Part, RecurrenceSizes, Resolved, Steps};
use mila_ops::{Dims, Error, Recurrence, RecurrenceOn, Result};

use crate::executor::{Burn, Form, Parameter, dims, values};
use crate::operation::{Call, Operation};

/// A recurrence over ranges: of the channels of one map, and of the values of one parameter.
#[derive(Debug)]
pub(crate) struct Packed {
    r: Recurrence<Range<usize>, Range<usize>, ()>,
    resolved: Resolved,
    steps: Steps,
}

/// See [`mila_ops::Executor::recurrence`].
pub(crate) fn recurrence(burn: &Burn, r: &RecurrenceOn<'_, Burn>) -> Result<(Tensor<4>, Tensor<4>)> {
    let resolved = recurrence::resolve::<Burn>(r, dims, |parameter| parameter.volume)?;
    if resolved.output.batch == 0 {
        let device = r.v.whole().device();
        let empty = |dims: Dims| Tensor::zeros([0, dims.height, dims.width, dims.channels], &device);
        return Ok((empty(resolved.output), empty(resolved.sizes.state_dims(0))));
    }
    let steps = resolved.walk()?;
    let map = |part: &Part<'_, Tensor<4>>| {
        let range = part.range(part.whole().dims()[3]);
        Ok(part.whole().clone().narrow(3, range.start, range.len()))
    };
    let parameter = |part: &Part<'_, Parameter>| {
        let range = part.range(part.whole().volume);
        Ok(burn.leaf(part.whole().handle).narrow(0, range.start, range.len()))
    };
    let operands = r.with_operands(map, parameter, |start| Ok::<_, Error>((*start).clone()))?;
    match burn.form() {
        Form::Portable => Ok(portable::recurrence(&operands, &resolved, &steps)),
        Form::Kernels(isa) => {
            if let Gate::Scalar(log) | Gate::Keys(log) | Gate::Values(log) = &operands.gate {
                RecurrenceSizes::check_logs(values(log.clone().inner())?.into_iter().map(f64::from))?;
            }
            packed(isa, &operands, resolved, steps)
        }
    }
}

/// The output and the state by the custom operation.
fn packed(
    isa: mila_kernels::Isa,
    operands: &Recurrence<Tensor<4>, Tensor<1>, Tensor<4>>,
    resolved: Resolved,
    steps: Steps,
) -> Result<(Tensor<4>, Tensor<4>)> {
    let (output, sizes) = (resolved.output, resolved.sizes);
    let (mut maps, mut parameters, mut start) = (Vec::new(), Vec::new(), None);
    let (mut channels, mut count) = (0, 0);
    let map = |map: &Tensor<4>| {
        maps.push(map.clone());
        Ok(following(&mut channels, map.dims()[3]))
    };
    let parameter = |parameter: &Tensor<1>| {
        parameters.push(parameter.clone());
        Ok(following(&mut count, parameter.dims()[0]))
    };
    let state = |state: &Tensor<4>| {
        start = Some(state.clone().reshape([sizes.state_dims(output.batch).volume()]));
        Ok::<_, Error>(())
    };
    let r = operands.with_operands(map, parameter, state)?;
    let operation = Operation::Recurrence(Arc::new(Packed { r, resolved, steps }));
    let call = Call { isa, operation, bias: start.is_some() };
    let parameters = (!parameters.is_empty()).then(|| Tensor::cat(parameters, 0));
    let both = crate::extension::apply(call, Tensor::cat(maps, 3), [parameters, start]);
    let states = sizes.state_dims(output.batch);
    let part = |start: usize, dims: Dims| {
        let part = both.clone().narrow(3, start, dims.volume());
        part.reshape([dims.batch, dims.height, dims.width, dims.channels])
    };
    Ok((part(0, output), part(output.volume(), states)))
}

/// The range of the next `len`.
fn following(end: &mut usize, len: usize) -> Range<usize> {
    *end += len;
    *end - len..*end
}
