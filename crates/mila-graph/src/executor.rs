//! The executor that records.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fmt;
use std::ops::Range;

use mila_ops::{
    Activation, BatchNormWanted, CausalConv, ConvWanted, DropPath, Error, Executor, LinearAttention, LinearWanted,
    NormForm, NormWanted, Normalisation, PatchOrder, RecurrenceOn, Result, ScanOrder, Source, TokenPlace, Values,
    Wanted, Window, Windows, shape,
};

use crate::{Extent, Id, Node, Operator, Symbol, TensorId, TensorPart};

/// Records parameters while a model is built and operators while it runs.
#[derive(Debug, Default)]
pub struct Graph {
    nodes: RefCell<Vec<Node>>,
    manifest: Vec<Wanted>,
    names: HashMap<String, TensorId>,
}

/// A map without values: where it comes from and its extent.
#[derive(Clone, Debug, PartialEq)]
pub struct Shaped {
    /// The node that gives it.
    pub id: Id,
    /// `[batch, height, width]`.
    pub extents: [Extent; 3],
    /// Channels.
    pub channels: usize,
}

impl fmt::Display for Shaped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [batch, height, width] = &self.extents;
        write!(f, "[{batch}, {height}, {width}, {}]", self.channels)
    }
}

/// A source for an executor that never loads a value.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NoValues;

impl Source for NoValues {
    fn load(&self, wanted: &Wanted) -> Result<Values<'_>> {
        Err(Error::parameter(&wanted.name, "a trace has no values"))
    }
}

/// A linear map as recorded.
#[derive(Clone, Debug)]
pub struct Linear {
    name: String,
    weight: TensorPart,
    bias: Option<TensorId>,
    inputs: usize,
    outputs: usize,
}

/// A convolution as recorded.
#[derive(Clone, Debug)]
pub struct Conv {
    pub(crate) name: String,
    pub(crate) weight: TensorId,
    pub(crate) bias: Option<TensorId>,
    norm: Option<BatchNorm>,
    window: Window,
    groups: usize,
    pub(crate) inputs: usize,
    outputs: usize,
}

/// A norm over channels as recorded.
#[derive(Clone, Debug)]
pub struct Norm {
    name: String,
    weight: TensorId,
    /// Of a layer norm.
    bias: Option<TensorId>,
    channels: usize,
    eps: f64,
}

/// A batch norm as recorded.
#[derive(Clone, Debug)]
pub struct BatchNorm {
    name: String,
    tensors: [TensorId; 4],
    channels: usize,
    eps: f64,
}

/// A raw parameter as recorded.
#[derive(Clone, Debug)]
pub struct Parameter {
    pub(crate) name: String,
    pub(crate) tensor: TensorId,
    pub(crate) volume: usize,
}

/// The layer of a tensor: its name without the last part.
pub(crate) fn layer(tensor: &str) -> String {
    tensor.rsplit_once('.').map_or_else(String::new, |(layer, _)| layer.to_owned())
}

impl Graph {
    /// An image of `channels` channels whose batch, height and width are symbols.
    pub fn image(&self, channels: usize) -> Shaped {
        self.input([Symbol::Batch, Symbol::Height, Symbol::Width].map(Extent::of), channels)
    }

    /// Another input, of these extents.
    pub fn input(&self, extents: [Extent; 3], channels: usize) -> Shaped {
        self.record("", Operator::Input, &[], extents, channels, 0)
    }

    pub(crate) fn source(&self) -> NoValues {
        NoValues
    }

    pub(crate) fn finish(self) -> (Vec<Node>, Vec<Wanted>) {
        (self.nodes.into_inner(), self.manifest)
    }

    /// The place of a tensor in the manifest, which lists one that several layers ask for once.
    ///
    /// # Errors
    /// [`Error::Parameter`] if it was asked for in another shape before.
    fn declare(&mut self, wanted: Wanted) -> Result<TensorId> {
        if let Some(&known) = self.names.get(&wanted.name) {
            let shape = &self.manifest[known.0].shape;
            if *shape != wanted.shape {
                let problem = format!("asked for as {shape:?} and as {:?}", wanted.shape);
                return Err(Error::parameter(&wanted.name, problem));
            }
            return Ok(known);
        }
        let id = TensorId(self.manifest.len());
        self.names.insert(wanted.name.clone(), id);
        self.manifest.push(wanted);
        Ok(id)
    }

    pub(crate) fn record(
        &self,
        name: &str,
        operator: Operator,
        inputs: &[&Shaped],
        extents: [Extent; 3],
        channels: usize,
        macs_per_token: u64,
    ) -> Shaped {
        let norm_macs_per_token = match operator {
            Operator::LayerNorm { .. } => 5 * channels as u64,
            Operator::RmsNorm { .. } => 3 * channels as u64,
            Operator::BatchNorm { .. } => 2 * channels as u64,
            _ => 0,
        };
        let mut nodes = self.nodes.borrow_mut();
        let id = Id(nodes.len());
        let (name, inputs) = (name.to_owned(), inputs.iter().map(|input| input.id).collect());
        let extents_of_node = extents.clone();
        nodes.push(Node {
            name,
            operator,
            inputs,
            extents: extents_of_node,
            channels,
            macs_per_token,
            norm_macs_per_token,
        });
        Shaped { id, extents, channels }
    }

    /// Records an operator that keeps the extent of its first input.
    pub(crate) fn like(&self, name: &str, operator: Operator, inputs: &[&Shaped]) -> Shaped {
        self.record(name, operator, inputs, inputs[0].extents.clone(), inputs[0].channels, 0)
    }

    pub(crate) fn name_of(&self, map: Id) -> String {
        self.nodes.borrow()[map.0].name.clone()
    }

    fn equal(&self, operator: &'static str, a: &Shaped, b: &Shaped) -> Result<()> {
        if a.extents == b.extents && a.channels == b.channels { Ok(()) } else { Err(Error::shape(operator, a, b)) }
    }
}

impl Executor for Graph {
    type Map = Shaped;
    type Linear = Linear;
    type Conv = Conv;
    type Norm = Norm;
    type BatchNorm = BatchNorm;
    type Parameter = Parameter;

    fn prepare_linear(&mut self, wanted: LinearWanted, _: &dyn Source) -> Result<Linear> {
        Ok(Linear {
            name: layer(&wanted.weight.name),
            inputs: wanted.inputs(),
            outputs: wanted.outputs(),
            weight: TensorPart { values: wanted.values(), tensor: self.declare(wanted.weight)? },
            bias: wanted.bias.map(|b| self.declare(b)).transpose()?,
        })
    }

    fn prepare_conv(&mut self, wanted: ConvWanted, source: &dyn Source) -> Result<Conv> {
        let (inputs, outputs) = (wanted.inputs(), wanted.outputs());
        Ok(Conv {
            name: layer(&wanted.weight.name),
            inputs,
            outputs,
            window: wanted.window,
            groups: wanted.groups,
            weight: self.declare(wanted.weight)?,
            bias: wanted.bias.map(|b| self.declare(b)).transpose()?,
            norm: wanted.norm.map(|n| self.prepare_batch_norm(n, source)).transpose()?,
        })
    }

    fn prepare_layer_norm(&mut self, wanted: NormWanted, _: &dyn Source) -> Result<Norm> {
        Ok(Norm {
            name: layer(&wanted.weight.name),
            channels: wanted.weight.volume(),
            eps: wanted.eps,
            weight: self.declare(wanted.weight)?,
            bias: match wanted.form {
                NormForm::Layer { bias } => Some(self.declare(bias)?),
                NormForm::RootMeanSquare => None,
            },
        })
    }

    fn prepare_batch_norm(&mut self, wanted: BatchNormWanted, _: &dyn Source) -> Result<BatchNorm> {
        Ok(BatchNorm {
            name: wanted.name,
            channels: wanted.weight.volume(),
            eps: wanted.eps,
            tensors: [
                self.declare(wanted.weight)?,
                self.declare(wanted.bias)?,
                self.declare(wanted.running_mean)?,
                self.declare(wanted.running_var)?,
            ],
        })
    }

    fn prepare_parameter(&mut self, wanted: Wanted, _: &dyn Source) -> Result<Parameter> {
        let (name, volume) = (wanted.name.clone(), wanted.volume());
        Ok(Parameter { name, tensor: self.declare(wanted)?, volume })
    }

    fn linear(&self, x: &Shaped, p: &Linear, then: Activation) -> Result<Shaped> {
        shape::channels("linear", p.inputs, x.channels)?;
        let operator = Operator::Linear { weight: p.weight.clone(), bias: p.bias, then };
        let macs = (p.inputs * p.outputs) as u64;
        Ok(self.record(&p.name, operator, &[x], x.extents.clone(), p.outputs, macs))
    }

    fn convolve(&self, x: &Shaped, p: &Conv) -> Result<Shaped> {
        shape::channels("convolution", p.inputs, x.channels)?;
        let Window { kernel, stride, padding } = p.window;
        // floor((n + 2 padding - kernel) / stride) + 1, as a quotient rounded up.
        let slack = 2 * padding as isize - kernel as isize + 1;
        let output = |n: &Extent| n.clone().affine(1, slack).divided_up(stride).at_least_one();
        let [batch, height, width] = &x.extents;
        let operator = Operator::Convolution { weight: p.weight, bias: p.bias, window: p.window, groups: p.groups };
        let macs = (p.inputs / p.groups * kernel * kernel * p.outputs) as u64;
        Ok(self.record(&p.name, operator, &[x], [batch.clone(), output(height), output(width)], p.outputs, macs))
    }

    fn norm_of<'a>(&self, p: &'a Conv) -> Option<&'a BatchNorm> {
        p.norm.as_ref()
    }

    fn batch_norm(&self, x: &Shaped, p: &BatchNorm) -> Result<Shaped> {
        shape::channels("batch norm", p.channels, x.channels)?;
        Ok(self.like(&p.name, Operator::BatchNorm { tensors: p.tensors, eps: p.eps }, &[x]))
    }

    fn layer_norm(&self, x: &Shaped, p: &Norm) -> Result<Shaped> {
        shape::channels("layer norm", p.channels, x.channels)?;
        let operator = match p.bias {
            Some(bias) => Operator::LayerNorm { tensors: [p.weight, bias], eps: p.eps },
            None => Operator::RmsNorm { weight: p.weight, eps: p.eps },
        };
        Ok(self.like(&p.name, operator, &[x]))
    }

    fn activate(&self, x: Shaped, then: Activation) -> Result<Shaped> {
        Ok(if then == Activation::None { x } else { self.like("", Operator::Activate(then), &[&x]) })
    }

    fn window_attention(&self, qkv: &Shaped, p: &Parameter, heads: usize, windows: Windows) -> Result<Shaped> {
        let channels = shape::window_attention(qkv.channels, p.volume, heads, windows)?;
        let operator = Operator::WindowAttention { table: p.tensor, heads, windows };
        Ok(self.record(&layer(&p.name), operator, &[qkv], qkv.extents.clone(), channels, 0))
    }

    fn linear_attention(&self, qk: &Shaped, v: &Shaped, form: LinearAttention) -> Result<Shaped> {
        shape::attention(qk.channels, v.channels, form)?;
        self.equal("linear attention", &Shaped { channels: qk.channels, ..v.clone() }, qk)?;
        let (keys, head) = (qk.channels as u64 / 2, (v.channels / form.heads) as u64);
        // K^T V and Q (K^T V), and the normaliser.
        let normaliser = match form.normalisation {
            Normalisation::Absent => 0,
            Normalisation::Weights => keys,
        };
        let macs = 2 * keys * head + normaliser;
        let name = layer(&self.name_of(qk.id));
        Ok(self.record(&name, Operator::LinearAttention(form), &[qk, v], v.extents.clone(), v.channels, macs))
    }

    fn recurrence(&self, r: &RecurrenceOn<'_, Self>) -> Result<(Shaped, Shaped)> {
        self.record_recurrence(r)
    }

    fn add(&self, a: Shaped, b: &Shaped) -> Result<Shaped> {
        self.equal("add", &a, b)?;
        Ok(self.like("", Operator::Add, &[&a, b]))
    }

    fn mul(&self, a: Shaped, b: &Shaped) -> Result<Shaped> {
        self.equal("mul", &a, b)?;
        Ok(self.like("", Operator::Mul, &[&a, b]))
    }

    fn channels(&self, x: &Shaped, range: Range<usize>) -> Result<Shaped> {
        shape::channel_range(&range, x.channels)?;
        let operator = Operator::Channels { start: range.start, end: range.end };
        Ok(self.record("", operator, &[x], x.extents.clone(), range.len(), 0))
    }

    fn concat(&self, a: &Shaped, b: &Shaped) -> Result<Shaped> {
        self.equal("concat", &Shaped { channels: b.channels, ..a.clone() }, b)?;
        Ok(self.record("", Operator::Concat, &[a, b], a.extents.clone(), a.channels + b.channels, 0))
    }

    fn causal_conv(&self, x: &Shaped, p: &CausalConv<Self>, order: ScanOrder, then: Activation) -> Result<Shaped> {
        self.record_causal_conv(x, p, order, then)
    }

    fn insert_token(&self, x: &Shaped, token: &Parameter, place: TokenPlace) -> Result<Shaped> {
        self.record_insert_token(x, token, place)
    }

    fn take_token(&self, x: &Shaped, place: TokenPlace) -> Result<Shaped> {
        self.record_take_token(x, place)
    }

    fn require_grid(&self, x: &Shaped, grid: [usize; 2]) -> Result<()> {
        self.record("", Operator::RequireGrid(grid), &[x], x.extents.clone(), 0, 0);
        Ok(())
    }

    fn scale_all(&self, x: Shaped, factor: f32) -> Result<Shaped> {
        Ok(self.like("", Operator::ScaleAll(factor), &[&x]))
    }

    fn scale(&self, x: Shaped, p: &Parameter) -> Result<Shaped> {
        shape::channels("scale", p.volume, x.channels)?;
        Ok(self.like(&p.name, Operator::Scale(p.tensor), &[&x]))
    }

    fn add_positions(&self, x: Shaped, p: &Parameter) -> Result<Shaped> {
        let &[_, _, channels] = self.manifest[p.tensor.0].shape.as_slice() else {
            let found = format!("{:?}", self.manifest[p.tensor.0].shape);
            return Err(Error::shape("absolute positions", "a table [height, width, channels]", found));
        };
        if channels > x.channels {
            return Err(Error::shape("absolute positions", format_args!("at least {channels} channels"), x));
        }
        // Whether the grid fits is known with the sizes only: `Trace::fits`.
        Ok(self.like(&p.name, Operator::AddPositions(p.tensor), &[&x]))
    }

    fn patches(&self, x: Shaped, order: PatchOrder) -> Result<Shaped> {
        let [batch, height, width] = &x.extents;
        let half = |n: &Extent| n.clone().divided_up(2);
        let extents = [batch.clone(), half(height), half(width)];
        Ok(self.record("", Operator::Patches(order), &[&x], extents, 4 * x.channels, 0))
    }

    fn drop_path(&self, x: Shaped, _: DropPath) -> Result<Shaped> {
        Ok(x)
    }

    fn mean_tokens(&self, x: &Shaped) -> Result<Shaped> {
        let extents = [x.extents[0].clone(), Extent::Number(1), Extent::Number(1)];
        Ok(self.record("", Operator::MeanTokens, &[x], extents, x.channels, 0))
    }

    fn pad_to_multiple(&self, x: Shaped, multiple: usize) -> Result<Shaped> {
        shape::multiple(multiple)?;
        let padded = |n: &Extent| n.clone().divided_up(multiple).affine(multiple, 0);
        let [batch, height, width] = &x.extents;
        let extents = [batch.clone(), padded(height), padded(width)];
        Ok(self.record("", Operator::PadToMultiple(multiple), &[&x], extents, x.channels, 0))
    }
}

#[cfg(test)]
mod tests {
    use mila_ops::{Builder, Init};

    use super::*;

    #[test]
    fn one_name_has_one_shape() {
        let mut graph = Graph::default();
        let source = graph.source();
        let mut builder = Builder::new(&mut graph, &source);
        let mut asked = |shape: &[usize]| builder.parameter("shared", shape, Init::Zeros).map(|p| p.tensor);
        assert_eq!(asked(&[4, 6]).expect("a tensor"), asked(&[4, 6]).expect("the same tensor"));
        let refused = asked(&[6, 4]).expect_err("another shape");
        assert!(matches!(refused, Error::Parameter { .. }), "{refused:?}");
        assert_eq!(refused.to_string(), "parameter `shared`: asked for as [4, 6] and as [6, 4]");
        // A layer's tensors are asked for in the same way.
        assert!(builder.linear_without_bias("layer", 4, 6).is_ok());
        assert!(matches!(builder.linear_without_bias("layer", 6, 4), Err(Error::Parameter { .. })));
        assert_eq!(graph.finish().1.len(), 2);
    }
}
