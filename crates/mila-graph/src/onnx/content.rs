//! The values of initialisers: where they come from, and what is done to them on the way.

use std::borrow::Cow;

use mila_ops::{Result, Source, Wanted, Windows, rope2d};

use crate::{TensorId, TensorPart};

/// The values of one initialiser. Parameters are loaded when they are written, so that one at a time is in memory.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Content {
    /// Constants.
    Floats(Vec<f32>),
    /// Shapes, axes and paddings.
    Integers(Vec<i64>),
    /// A parameter as it is stored.
    Stored(TensorId),
    /// Some values of a parameter as they are stored.
    Part(TensorPart),
    /// A linear map's weight as `[inputs, outputs]`.
    Transposed { weight: TensorPart, inputs: usize },
    /// A causal convolution's weight with its taps from the last to the first.
    Reversed { weight: TensorId, taps: usize },
    /// A convolution's weight times the scale of the batch norm behind it.
    FoldedWeight { weight: TensorId, norm: Norm },
    /// A convolution's bias with the batch norm behind it.
    FoldedBias { bias: Option<TensorId>, norm: Norm },
    /// Rows of queries and keys with the pairs that a rotation turns taken apart: per head the even ones, then the odd.
    PairedRows { tensor: TensorId, heads: usize },
    /// A table of biases for relative positions, `[offsets, heads]`, as `[heads, tokens, tokens]` of a window of `sides`.
    RelativeBias { table: TensorId, heads: usize, windows: Windows, sides: [usize; 2] },
    /// Cosines or sines of rotary positions, `[channels / 2, height * width]`.
    Rotation { height: usize, width: usize, channels: usize, part: Part },
}

/// A batch norm: weight, bias, mean, variance.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Norm {
    pub(super) tensors: [TensorId; 4],
    pub(super) eps: f64,
}

/// Of a rotation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Part {
    Cos,
    Sin,
}

impl Part {
    /// The operator that computes it.
    pub(super) fn operator(self) -> &'static str {
        match self {
            Self::Cos => "Cos",
            Self::Sin => "Sin",
        }
    }
}

impl Norm {
    /// `(scale, shift)` of each channel.
    fn affine(&self, manifest: &[Wanted], source: &dyn Source) -> Result<Vec<(f64, f64)>> {
        let [weight, bias, mean, variance] = self.tensors.map(|id| source.fetch(&manifest[id.0]));
        let (weight, bias) = (weight?.into_f64(), bias?.into_f64());
        let (mean, variance) = (mean?.into_f64(), variance?.into_f64());
        let channel = |c: usize| {
            let scale = weight[c] / (variance[c] + self.eps).sqrt();
            (scale, bias[c] - mean[c] * scale)
        };
        Ok((0..weight.len()).map(channel).collect())
    }
}

/// The row of the stored tensor that becomes row `row` of [`Content::PairedRows`], of `rows` for queries and keys.
fn paired_row(row: usize, rows: usize, heads: usize) -> usize {
    let half = rows / 2 / heads / 2;
    let (head, within) = (row / (2 * half), row % (2 * half));
    head * 2 * half + 2 * (within % half) + within / half
}

impl Content {
    /// What of the checkpoint's own tensor is changed, for the reader of the file.
    pub(super) fn note(&self) -> Option<&'static str> {
        match self {
            Self::Transposed { .. } => Some("transposed: [inputs, outputs]"),
            Self::FoldedWeight { .. } | Self::FoldedBias { .. } => Some("with the batch norm behind it"),
            Self::PairedRows { .. } => Some("rows of each head: the even ones, then the odd ones"),
            Self::Part(_) => Some("rows of a tensor"),
            Self::Reversed { .. } => Some("taps from the last to the first"),
            Self::RelativeBias { .. } => Some("of every pair of tokens of a window"),
            Self::Floats(_) | Self::Integers(_) | Self::Stored(_) | Self::Rotation { .. } => None,
        }
    }

    /// Whether the values are whole numbers of 64 bits; all others are f32.
    pub(super) fn is_integer(&self) -> bool {
        matches!(self, Self::Integers(_))
    }

    /// The values, little-endian.
    pub(super) fn bytes(&self, manifest: &[Wanted], source: &dyn Source) -> Result<Vec<u8>> {
        if let Self::Integers(values) = self {
            return Ok(values.iter().flat_map(|value| value.to_le_bytes()).collect());
        }
        let values = self.floats(manifest, source)?;
        let mut bytes = Vec::with_capacity(4 * values.len());
        values.iter().for_each(|value| bytes.extend_from_slice(&value.to_le_bytes()));
        Ok(bytes)
    }

    fn floats<'s>(&'s self, manifest: &[Wanted], source: &'s dyn Source) -> Result<Cow<'s, [f32]>> {
        let fetch = |id: TensorId| source.fetch(&manifest[id.0]);
        Ok(match self {
            Self::Floats(values) => values.as_slice().into(),
            Self::Integers(_) => Cow::default(),
            Self::Stored(id) => fetch(*id)?.into_f32(),
            Self::Part(part) => fetch(part.tensor)?.into_f32()[part.values.clone()].to_vec().into(),
            Self::Transposed { weight, inputs } => {
                let values = &fetch(weight.tensor)?.into_f32()[weight.values.clone()];
                let outputs = values.len() / inputs;
                (0..*inputs).flat_map(|i| (0..outputs).map(move |o| o * inputs + i)).map(|at| values[at]).collect()
            }
            Self::Reversed { weight, taps } => {
                let values = fetch(*weight)?.into_f32();
                values.chunks_exact(*taps).flat_map(|taps| taps.iter().rev()).copied().collect()
            }
            Self::FoldedWeight { weight, norm } => {
                let values = fetch(*weight)?.into_f64();
                let affine = norm.affine(manifest, source)?;
                let filters = values.chunks_exact(values.len() / affine.len().max(1));
                let scaled =
                    |(filter, &(scale, _)): (&[f64], _)| filter.iter().map(move |w| (w * scale) as f32).collect();
                filters.zip(&affine).flat_map(|pair| -> Vec<f32> { scaled(pair) }).collect()
            }
            Self::FoldedBias { bias, norm } => {
                let affine = norm.affine(manifest, source)?;
                let before = bias.map(fetch).transpose()?.map(mila_ops::Values::into_f64);
                let at = |c: usize| before.as_ref().map_or(0.0, |bias| bias[c]);
                affine.iter().enumerate().map(|(c, (scale, shift))| (at(c) * scale + shift) as f32).collect()
            }
            Self::PairedRows { tensor, heads } => {
                let values = fetch(*tensor)?.into_f32();
                let rows = manifest[tensor.0].shape[0];
                let columns = values.len() / rows.max(1);
                let row = |row| &values[paired_row(row, rows, *heads) * columns..][..columns];
                (0..rows).flat_map(row).copied().collect()
            }
            Self::RelativeBias { table, heads, windows, sides: [rows, columns] } => {
                let values = fetch(*table)?.into_f32();
                let last = windows.side - 1;
                let tokens = || (0..*rows).flat_map(|row| (0..*columns).map(move |column| (row, column)));
                let offset = |(query, key): ((usize, usize), (usize, usize))| {
                    windows.offset(query.0 + last - key.0, query.1 + last - key.1)
                };
                let pairs = || tokens().flat_map(|query| tokens().map(move |key| (query, key)));
                (0..*heads)
                    .flat_map(|head| pairs().map(move |pair| (pair, head)))
                    .map(|(pair, head)| values[offset(pair) * heads + head])
                    .collect()
            }
            Self::Rotation { height, width, channels, part } => {
                let table = rope2d::rotations(*height, *width, *channels);
                let offset = usize::from(*part == Part::Sin);
                let tokens = height * width;
                let pair = |pair: usize| (0..tokens).map(move |token| token * channels + 2 * pair + offset);
                (0..channels / 2).flat_map(pair).map(|at| table[at]).collect()
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_of_a_head_stay_in_it() {
        // Queries and keys of two heads of four channels.
        let found: Vec<usize> = (0..16).map(|row| paired_row(row, 16, 2)).collect();
        assert_eq!(found, [0, 2, 1, 3, 4, 6, 5, 7, 8, 10, 9, 11, 12, 14, 13, 15]);
    }
}
