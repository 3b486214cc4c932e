//! Parameters in the layouts that the kernels want.

use mila_kernels::{Bf16Unit, Centre, Isa, PackedMatrix, depthwise};
use mila_ops::{
    BatchNormWanted, ConvWanted, Error, LinearWanted, NormForm, NormWanted, Result, Source, Wanted, Window,
};

/// What linear maps and convolutions over all channels multiply. Sums, and everything else, are f32.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Precision {
    /// f32 numbers.
    #[default]
    F32,
    /// bf16 numbers, both weights and rows rounded to the nearest, on a unit that the processor has:
    /// [`Isa::bf16`](mila_kernels::Isa::bf16) knows it.
    Bf16(Bf16Unit),
}

impl Precision {
    /// `f32` or `bf16`.
    pub fn name(self) -> &'static str {
        match self {
            Precision::F32 => "f32",
            Precision::Bf16(_) => "bf16",
        }
    }

    /// The weight in this precision.
    fn of(self, weight: PackedMatrix) -> PackedMatrix {
        match self {
            Precision::F32 => weight,
            Precision::Bf16(unit) => weight.into_bf16(unit),
        }
    }
}

/// A packed linear map.
#[derive(Debug)]
pub struct Linear {
    pub(crate) weight: PackedMatrix,
    pub(crate) bias: Option<Vec<f32>>,
}

impl Linear {
    pub(crate) fn load(isa: Isa, wanted: &LinearWanted, source: &dyn Source, precision: Precision) -> Result<Self> {
        let values = source.fetch(&wanted.weight)?.into_f32();
        let weight = PackedMatrix::from_columns(isa, &values[wanted.values()], wanted.outputs(), wanted.inputs());
        let weight = precision.of(weight);
        Ok(Self { weight, bias: wanted.bias.as_ref().map(|bias| fetch(source, bias)).transpose()? })
    }
}

/// How a convolution is carried out.
#[derive(Debug)]
pub(crate) enum Kernel {
    /// 1x1 with stride 1: a product with every token.
    Pointwise(PackedMatrix),
    /// Each channel by itself; weight `[taps, channels]`.
    Depthwise(Vec<f32>),
    /// All channels together; weight `[taps * inputs, outputs]`, packed.
    Full(PackedMatrix),
}

/// A convolution with its norm folded in.
#[derive(Debug)]
pub struct Conv {
    pub(crate) kernel: Kernel,
    pub(crate) bias: Option<Vec<f32>>,
    pub(crate) window: Window,
    pub(crate) inputs: usize,
    pub(crate) outputs: usize,
}

impl Conv {
    pub(crate) fn load(isa: Isa, wanted: &ConvWanted, source: &dyn Source, precision: Precision) -> Result<Self> {
        let (inputs, outputs, window) = (wanted.inputs(), wanted.outputs(), wanted.window);
        let mut weight = fetch(source, &wanted.weight)?;
        let mut bias = wanted.bias.as_ref().map(|bias| fetch(source, bias)).transpose()?;
        if let Some(norm) = &wanted.norm {
            let affine = Affine::load(norm, source)?;
            for (filter, &scale) in weight.chunks_exact_mut(wanted.weight.volume() / outputs.max(1)).zip(&affine.scale)
            {
                filter.iter_mut().for_each(|w| *w *= scale);
            }
            let before = bias.unwrap_or_else(|| vec![0.0; outputs]);
            let terms = before.iter().zip(&affine.scale).zip(&affine.shift);
            bias = Some(terms.map(|((b, scale), shift)| b * scale + shift).collect());
        }
        let kernel = match (wanted.groups, window) {
            (1, Window { kernel: 1, stride: 1, padding: 0 }) => {
                Kernel::Pointwise(precision.of(PackedMatrix::from_columns(isa, &weight, outputs, inputs)))
            }
            (1, _) => {
                let packed = mila_kernels::conv::pack_weight(isa, &weight, inputs, outputs, window.kernel);
                Kernel::Full(precision.of(packed))
            }
            (groups, _) if groups == inputs && groups == outputs => {
                Kernel::Depthwise(depthwise::pack_weight(&weight, outputs, weight.len() / outputs.max(1)))
            }
            (groups, _) => {
                let what = format!("a convolution of {groups} groups for {inputs} channels");
                return Err(Error::Unsupported { what, why: "groups are one, or as many as channels".into() });
            }
        };
        Ok(Self { kernel, bias, window, inputs, outputs })
    }
}

/// A norm over channels.
#[derive(Debug)]
pub struct Norm {
    pub(crate) weight: Vec<f32>,
    /// Zeros for RMSNorm.
    pub(crate) bias: Vec<f32>,
    pub(crate) eps: f32,
    pub(crate) centre: Centre,
}

impl Norm {
    pub(crate) fn load(wanted: &NormWanted, source: &dyn Source) -> Result<Self> {
        let weight = fetch(source, &wanted.weight)?;
        let (bias, centre) = match &wanted.form {
            NormForm::Layer { bias } => (fetch(source, bias)?, Centre::Mean),
            NormForm::RootMeanSquare => (vec![0.0; weight.len()], Centre::Zero),
        };
        Ok(Self { weight, bias, eps: wanted.eps as f32, centre })
    }
}

impl Norm {
    /// As the kernels take it.
    pub(crate) fn kernel(&self) -> mila_kernels::Norm<'_> {
        mila_kernels::Norm { weight: &self.weight, bias: &self.bias, eps: self.eps, centre: self.centre }
    }
}

/// A tensor that belongs to no layer.
#[derive(Debug)]
pub struct Table {
    pub(crate) values: Vec<f32>,
    pub(crate) shape: Vec<usize>,
}

/// A batch norm with its running statistics: `x * scale + shift`.
#[derive(Debug)]
pub struct Affine {
    pub(crate) scale: Vec<f32>,
    pub(crate) shift: Vec<f32>,
}

impl Affine {
    pub(crate) fn load(wanted: &BatchNormWanted, source: &dyn Source) -> Result<Self> {
        let load = |wanted| source.fetch(wanted).map(|values| values.into_f64().into_owned());
        let (weight, bias) = (load(&wanted.weight)?, load(&wanted.bias)?);
        let (mean, variance) = (load(&wanted.running_mean)?, load(&wanted.running_var)?);
        let scale: Vec<f64> = weight.iter().zip(&variance).map(|(w, v)| w / (v + wanted.eps).sqrt()).collect();
        let shift = bias.iter().zip(&mean).zip(&scale).map(|((b, m), s)| (b - m * s) as f32).collect();
        Ok(Self { scale: scale.iter().map(|&s| s as f32).collect(), shift })
    }
}

pub(crate) fn fetch(source: &dyn Source, wanted: &Wanted) -> Result<Vec<f32>> {
    Ok(source.fetch(wanted)?.into_f32().into_owned())
}
