//! Tensors in NumPy's file format.

use std::fs::File;
use std::io::{BufReader, BufWriter};
use std::path::Path;

use anyhow::{Context, Result, ensure};
use npyz::{NpyFile, Order, WriteOptions, WriterBuilder};

use crate::Tensor;

pub(crate) fn read(path: &Path) -> Result<Tensor> {
    let open = || -> Result<Tensor> {
        let file = NpyFile::new(BufReader::new(File::open(path)?))?;
        ensure!(file.order() == Order::C, "expected values row by row");
        let shape = file.shape().iter().map(|&n| usize::try_from(n)).collect::<Result<_, _>>()?;
        Ok(Tensor { shape, values: file.into_vec()? })
    };
    open().with_context(|| format!("cannot read {}", path.display()))
}

pub(crate) fn write(path: &Path, tensor: &Tensor) -> Result<()> {
    let save = || -> Result<()> {
        let shape: Vec<u64> = tensor.shape.iter().map(|&n| n as u64).collect();
        let file = BufWriter::new(File::create(path)?);
        let mut writer = WriteOptions::new().default_dtype().shape(&shape).writer(file).begin_nd()?;
        writer.extend(tensor.values.iter().copied())?;
        Ok(writer.finish()?)
    };
    save().with_context(|| format!("cannot write {}", path.display()))
}
