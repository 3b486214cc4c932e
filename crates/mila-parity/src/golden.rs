//! The stored goldens.

use std::borrow::Cow;
use std::collections::HashMap;

use mila_ops::reference::Array;
use mila_ops::{Dims, Error, Result, Source, Values, Wanted};
use safetensors::SafeTensors;
use serde::Deserialize;

/// One case of a golden file; scalars that it does not use are absent.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Case {
    /// Prefix of its tensors.
    pub name: String,
    /// What it exercises.
    pub op: String,
    /// `none`, `relu`, `silu` or `gelu`.
    pub activation: String,
    /// `eval` or `train`.
    pub mode: String,
    /// Variant of an ablation.
    pub variant: String,
    /// Side of a kernel.
    pub kernel: usize,
    /// Step of a kernel.
    pub stride: usize,
    /// Padding of a kernel.
    pub padding: usize,
    /// Groups of a convolution.
    pub groups: usize,
    /// Heads of an attention.
    pub heads: usize,
    /// Channels of a block.
    pub channels: usize,
    /// Multiple to pad to.
    pub multiple: usize,
    /// Tokens on a side of a window.
    pub side: usize,
    /// Tokens before the first border of windows.
    pub shift: usize,
    /// The first channel taken.
    pub start: usize,
    /// The first channel after those taken.
    pub end: usize,
    /// Gate of a recurrence: `none`, `scalar`, `keys`, `values` or `factored`.
    pub gate: String,
    /// What gates the input of a recurrence: `none` or `of_gate`.
    pub input: String,
    /// Normaliser of a recurrence: `none`, `gated` or `ungated`.
    pub normaliser: String,
    /// Scan order of a recurrence.
    pub order: String,
    /// Images of an input.
    pub batch: usize,
    /// Rows of an input.
    pub height: usize,
    /// Columns of an input.
    pub width: usize,
    /// Eps of a norm or of the optimiser.
    pub eps: f64,
    /// Labels of a training case.
    pub labels: Vec<u32>,
    /// Loss of a training case.
    pub loss: f64,
    /// Norm of all its gradients.
    pub gradient_norm: f64,
    /// Learning rate of its step.
    pub lr: f64,
    /// Weight decay of its step.
    pub weight_decay: f64,
    /// Largest gradient norm of its step.
    pub clip: f64,
}

/// A golden file in memory.
pub struct Golden {
    /// Its cases.
    pub cases: Vec<Case>,
    tensors: HashMap<String, (Vec<usize>, Vec<f32>)>,
}

macro_rules! golden_files {
    ($($name:literal),*) => {
        fn bytes(name: &str) -> Option<&'static [u8]> {
            match name {
                $($name => Some(include_bytes!(concat!("../../mila-models/tests/golden/", $name, ".safetensors"))),)*
                _ => None,
            }
        }
    };
}
golden_files!(
    "operators",
    "mila_block",
    "mila_reduced",
    "mila_nano",
    "convnext_reduced",
    "mambaout_reduced",
    "swin_reduced",
    "vmamba_reduced",
    "vmamba_v0_reduced",
    "vim_reduced",
    "mamba_nd_reduced",
    "presets",
    "gradients",
    "recurrence",
    "ablation_reduced",
    "mamba_presets"
);

impl Golden {
    /// The file `crates/mila-models/tests/golden/{name}.safetensors`.
    ///
    /// # Panics
    /// If there is no such file, or if it is not what `tools/golden` writes.
    pub fn open(name: &str) -> Self {
        let bytes = bytes(name).unwrap_or_else(|| panic!("no golden file `{name}`"));
        let (_, header) = SafeTensors::read_metadata(bytes).expect("a safetensors header");
        let metadata = header.metadata().as_ref().expect("metadata of a golden file");
        let cases = serde_json::from_str(&metadata["cases"]).expect("the cases of a golden file");
        let file = SafeTensors::deserialize(bytes).expect("a safetensors file");
        let tensor = |(name, view): (String, safetensors::tensor::TensorView)| {
            let values = view.data().chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]));
            (name, (view.shape().to_vec(), values.collect()))
        };
        Self { cases, tensors: file.tensors().into_iter().map(tensor).collect() }
    }

    /// Whether the tensor `name` is stored.
    pub fn has(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// Names of the stored tensors.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// Shape and values of the tensor `name`.
    ///
    /// # Panics
    /// If it is not stored.
    pub fn tensor(&self, name: &str) -> (&[usize], &[f32]) {
        let (shape, values) = self.tensors.get(name).unwrap_or_else(|| panic!("no golden tensor `{name}`"));
        (shape, values)
    }

    /// The map `name`; a matrix `[batch, channels]` counts as a map of one token.
    ///
    /// # Panics
    /// If it is not stored or has another number of axes.
    pub fn map(&self, name: &str) -> Array<f32> {
        let (shape, values) = self.tensor(name);
        let dims = match *shape {
            [batch, height, width, channels] => Dims::new(batch, height, width, channels),
            [batch, channels] => Dims::new(batch, 1, 1, channels),
            _ => panic!("golden `{name}` of shape {shape:?} is no map"),
        };
        Array::new(dims, values.to_vec())
    }
}

impl Source for Golden {
    fn load(&self, wanted: &Wanted) -> Result<Values<'_>> {
        let stored = self.tensors.get(&wanted.name).ok_or_else(|| Error::parameter(&wanted.name, "not stored"))?;
        Ok(Values::F32(Cow::Borrowed(&stored.1)))
    }
}
