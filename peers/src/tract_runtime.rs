//! tract.

use std::path::Path;

use anyhow::Result;
use tract_linalg::multithread::{Executor, multithread_tract_scope};
use tract_onnx::prelude::{Datum, Framework, InferenceFact, InferenceModelExt, IntoRunnable, IntoTValue, TValue, tvec};

use crate::{Pass, Tensor};

/// Loads a model for the extents of this input. tract can also keep extents as symbols, but its analysis of those of MILA-T
/// had not ended after two minutes, and that of ConvNeXt-T cannot prove that two expressions for an extent are equal.
pub(crate) fn load(path: &Path, input: Tensor, threads: usize) -> Result<Pass> {
    // What the file says of extents is in its own symbols.
    let onnx = tract_onnx::onnx().with_ignore_value_info(true).with_ignore_output_shapes(true);
    let fact = InferenceFact::dt_shape(f32::datum_type(), &input.shape);
    let model = onnx.model_for_path(path)?.with_input_fact(0, fact)?.into_optimized()?.into_runnable()?;
    let image: TValue = tract_onnx::prelude::Tensor::from_shape(&input.shape, &input.values)?.into_tvalue();
    let pool = if threads == 1 { Executor::SingleThread } else { Executor::multithread(threads) };
    Ok(Box::new(move || {
        let found = multithread_tract_scope(pool.clone(), || model.run(tvec![image.clone()]))?;
        found.iter().map(tensor).collect()
    }))
}

fn tensor(value: &TValue) -> Result<Tensor> {
    let view = value.to_plain_array_view::<f32>()?;
    Ok(Tensor { shape: view.shape().to_vec(), values: view.iter().copied().collect() })
}
