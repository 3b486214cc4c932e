//! rten.

use std::path::Path;
use std::sync::Arc;

use anyhow::Result;
use rten::{Model, RunOptions, ThreadPool, Value};
use rten_tensor::prelude::*;

use crate::{Pass, Tensor};

pub(crate) fn load(path: &Path, input: Tensor, threads: usize) -> Result<Pass> {
    let model = Model::load_file(path)?;
    let image = rten_tensor::Tensor::<f32>::from_data(&input.shape, input.values);
    let pool = Arc::new(ThreadPool::with_num_threads(threads));
    let (inputs, outputs) = (model.input_ids().to_vec(), model.output_ids().to_vec());
    Ok(Box::new(move || {
        let options = RunOptions::default().with_thread_pool(Some(pool.clone()));
        let found = model.run(vec![(inputs[0], image.view().into())], &outputs, Some(options))?;
        found.into_iter().map(tensor).collect()
    }))
}

fn tensor(value: Value) -> Result<Tensor> {
    let tensor: rten_tensor::Tensor<f32> = value.try_into()?;
    Ok(Tensor { shape: tensor.shape().to_vec(), values: tensor.to_vec() })
}
