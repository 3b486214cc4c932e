//! Every operator of a trace in ONNX's operators.

use std::collections::HashMap;
use std::f32::consts::SQRT_2;
use std::ops::Range;

use mila_ops::{Activation, Error, Positions, Result, Window, Windows};

use super::content::{Content, Norm};
use super::dim::{Dim, Extents};
use super::file::{Onnx, Setting, Value};
use super::maps::{Forms, Layout};
use super::windows::Grid;
use crate::{Id, Node, Operator, Sizes, TensorId, TensorPart, Trace};

/// A trace on its way.
pub(super) struct Lowering<'t> {
    pub(super) trace: &'t Trace,
    pub(super) extents: Extents,
    pub(super) file: Onnx<'t>,
    pub(super) maps: Vec<Forms>,
    /// What names are derived from: the path of the layer, or of the newest layer before.
    paths: Vec<String>,
    /// The nodes that use a map.
    pub(super) users: Vec<Vec<Id>>,
    pub(super) constants: Vec<(Vec<usize>, Content, Value)>,
    /// Parameters as they are stored: one that several layers share is in the file once.
    stored: HashMap<TensorId, Value>,
    /// `[height, width]` of a map.
    pub(super) grids: HashMap<Value, Value>,
    /// How maps are cut into windows, by their extents.
    pub(super) windows: HashMap<(Vec<crate::Extent>, Windows), Grid>,
    /// Cosines and sines by the extents of their map, channels and heads.
    pub(super) tables: HashMap<(Vec<crate::Extent>, usize, usize), [Value; 2]>,
}

impl Trace {
    /// The model in ONNX's operators; see [`crate::onnx`].
    ///
    /// # Errors
    /// `Shape` for a size of zero; `Unsupported`, with the layer and the reason, for what ONNX cannot say: linear attention
    /// with rotary positions whose heads are of odd width or whose queries and keys are no linear map of their own, batch norm
    /// that follows no convolution of its own, absolute positions where the extents are free. Of recurrences: an order other
    /// than rows and columns where the extents are free, or without a step; segments of several lengths or from a carried
    /// state; a state that is used and is not the last of one segment. `Shape` for sizes that the model does not take
    /// ([`Trace::fits`]).
    pub fn onnx(&self, extents: Extents) -> Result<Onnx<'_>> {
        if let Extents::Fixed(Sizes { batch, height, width }) = extents
            && [batch, height, width].contains(&0)
        {
            let found = format!("{batch} images of {height}x{width}");
            return Err(Error::shape("export", "at least one image of at least one pixel", found));
        }
        if let Extents::Fixed(sizes) = extents {
            self.fits(sizes)?;
        }
        let mut users = vec![Vec::new(); self.nodes().len()];
        for (at, node) in self.nodes().iter().enumerate() {
            node.inputs.iter().for_each(|input| users[input.0].push(Id(at)));
        }
        let mut lowering = Lowering {
            trace: self,
            extents,
            file: Onnx::new(self.manifest()),
            maps: vec![Forms::default(); self.nodes().len()],
            paths: Vec::new(),
            users,
            constants: Vec::new(),
            stored: HashMap::new(),
            grids: HashMap::new(),
            windows: HashMap::new(),
            tables: HashMap::new(),
        };
        for (at, node) in self.nodes().iter().enumerate() {
            lowering.paths.push(lowering.path_of(node));
            lowering.node(Id(at), node)?;
        }
        for (level, &id) in self.outputs().iter().enumerate() {
            let (name, layout) = match lowering.is_pooled(id) {
                true => ("logits".to_owned(), Layout::Last),
                false => (format!("level{level}"), Layout::Planes),
            };
            let value = lowering.form(id, layout)?;
            lowering.file.output(&name, value);
        }
        Ok(lowering.file)
    }
}

impl Lowering<'_> {
    pub(super) fn path(&self, id: Id) -> &str {
        &self.paths[id.0]
    }

    fn path_of(&self, node: &Node) -> String {
        let newest = node.inputs.iter().max().map_or("image", |&id| self.path(id));
        // What is named after its tensor, which is in the file under that name.
        let is_tensor =
            matches!(node.operator, Operator::Scale(_) | Operator::AddPositions(_) | Operator::InsertToken { .. });
        let own = (!node.name.is_empty() && !is_tensor).then_some(&*node.name);
        own.unwrap_or(newest).to_owned()
    }

    /// The only user of a map that is no output.
    fn only_user(&self, id: Id) -> Option<(Id, &Operator)> {
        match self.users[id.0].as_slice() {
            [user] if !self.trace.is_output(id.0) => Some((*user, &self.trace.nodes()[user.0].operator)),
            _ => None,
        }
    }

    /// An initialiser under the name of a parameter.
    pub(super) fn parameter(&mut self, id: TensorId, dims: &[usize], content: Content) -> Value {
        let name = &self.trace.manifest()[id.0].name;
        self.file.initialiser(name, dims, content)
    }

    /// The same in the shape and order in which it is stored.
    pub(super) fn stored(&mut self, id: TensorId) -> Value {
        if let Some(&known) = self.stored.get(&id) {
            return known;
        }
        let value = self.parameter(id, &self.trace.manifest()[id.0].shape, Content::Stored(id));
        self.stored.insert(id, value);
        value
    }

    /// The name of a part of a parameter: that of the tensor, with the rows of `width` values if they are not all.
    fn part_name(&self, part: &TensorPart, width: usize) -> String {
        let wanted = &self.trace.manifest()[part.tensor.0];
        let Range { start, end } = part.values;
        match start == 0 && end == wanted.volume() {
            true => wanted.name.clone(),
            false => format!("{}[{}:{}]", wanted.name, start / width, end / width),
        }
    }

    fn node(&mut self, id: Id, node: &Node) -> Result<()> {
        match (&node.operator, node.inputs.as_slice()) {
            (Operator::Input, _) => {
                let value = self.file.input("image", self.dims(id, Layout::Planes));
                self.set(id, Layout::Planes, value);
            }
            (Operator::Linear { weight, bias, then }, &[x]) => {
                // Queries and keys that turn are made where they are used.
                let is_for_attention = matches!(self.only_user(id), Some((user, Operator::LinearAttention(form)))
                    if form.positions == Positions::Rotary
                        && self.trace.nodes()[user.0].inputs[0] == id
                        && *then == Activation::None);
                if !is_for_attention {
                    self.linear(id, x, (weight, *bias), *then)?;
                }
            }
            (Operator::Convolution { weight, bias, window, groups }, &[x]) => {
                self.convolution(id, x, (*weight, *bias), *window, *groups)?;
            }
            // Folded by the convolution before it, or not supported.
            (Operator::BatchNorm { .. }, _) => {
                if self.maps[id.0].planes.is_none() {
                    let what = format!("batch norm `{}` in ONNX", node.name);
                    return Err(Error::Unsupported { what, why: "it follows no convolution of its own".into() });
                }
            }
            (Operator::LayerNorm { tensors, eps }, &[x]) => {
                let x = self.form(x, Layout::Last)?;
                let [weight, bias] = tensors.map(|id| self.stored(id));
                let settings = [("axis", Setting::Integer(-1)), ("epsilon", Setting::Float(*eps as f32))];
                let path = self.path(id).to_owned();
                let dims = self.dims(id, Layout::Last);
                let y = self.file.node(&path, "LayerNormalization", &[x, weight, bias], &settings, dims);
                self.set(id, Layout::Last, y);
            }
            (Operator::RmsNorm { weight, eps }, &[x]) => self.rms_norm(id, x, *weight, *eps)?,
            (Operator::CausalConv { weight, bias, taps, order, then }, &[x]) => {
                self.causal_conv(id, x, (*weight, *bias, *taps), *order, *then)?;
            }
            (Operator::InsertToken { token, place }, &[x]) => self.insert_token(id, x, *token, *place)?,
            (Operator::TakeToken(place), &[x]) => self.take_token(id, x, *place)?,
            (Operator::RequireGrid(grid), &[x]) => self.require_grid(x, *grid)?,
            (Operator::ScaleAll(factor), &[x]) => {
                let layout = self.nearest(&[x]);
                let inputs = [self.form(x, layout)?, self.scalar(*factor)];
                let name = format!("{}/Mul", self.path(id));
                let y = self.file.node(&name, "Mul", &inputs, &[], self.dims(id, layout));
                self.set(id, layout, y);
            }
            (Operator::Activate(then), &[x]) => {
                let layout = self.nearest(&[x]);
                let x = self.form(x, layout)?;
                let path = self.path(id).to_owned();
                let y = self.activation(&path, x, *then);
                self.set(id, layout, y);
            }
            (&Operator::WindowAttention { table, heads, windows }, &[qkv]) => {
                self.window_attention(id, qkv, (table, heads, windows))?;
            }
            (Operator::LinearAttention(form), &[qk, v]) => self.attention(id, qk, v, *form)?,
            (Operator::Recurrence(recorded), inputs) => self.recurrence(id, recorded, inputs)?,
            // Made by its recurrence, if something uses it.
            (Operator::State, _) => {}
            (Operator::Add, &[a, b]) => self.binary(id, "Add", a, b)?,
            (Operator::Mul, &[a, b]) => self.binary(id, "Mul", a, b)?,
            (&Operator::Channels { start, end }, &[x]) => self.channels(id, x, start..end)?,
            (Operator::Concat, &[a, b]) => self.concat(id, a, b)?,
            (Operator::Scale(factors), &[x]) => {
                let layout = self.nearest(&[x]);
                let x = self.form(x, layout)?;
                let dims = match layout {
                    Layout::Last => vec![node.channels],
                    Layout::Planes => vec![node.channels, 1, 1],
                };
                let factors = self.parameter(*factors, &dims, Content::Stored(*factors));
                let name = format!("{}/Mul", self.path(id));
                let y = self.file.node(&name, "Mul", &[x, factors], &[], self.dims(id, layout));
                self.set(id, layout, y);
            }
            (Operator::AddPositions(table), &[x]) => self.add_positions(id, x, *table)?,
            (Operator::Patches(order), &[x]) => self.patches(id, x, *order)?,
            (Operator::MeanTokens, &[x]) => {
                let layout = self.nearest(&[x]);
                let axes = if layout == Layout::Planes { [2, 3] } else { [1, 2] };
                let x = self.form(x, layout)?;
                let settings = [("axes", Setting::Integers(axes.to_vec())), ("keepdims", Setting::Integer(0))];
                let name = format!("{}/ReduceMean", self.path(id));
                let y = self.file.node(&name, "ReduceMean", &[x], &settings, self.dims(id, Layout::Last));
                self.set(id, Layout::Last, y);
            }
            (Operator::PadToMultiple(multiple), &[x]) => self.pad_to_multiple(id, x, *multiple)?,
            (
                Operator::Linear { .. }
                | Operator::Convolution { .. }
                | Operator::LayerNorm { .. }
                | Operator::RmsNorm { .. }
                | Operator::CausalConv { .. }
                | Operator::InsertToken { .. }
                | Operator::TakeToken(_)
                | Operator::AddPositions(_)
                | Operator::RequireGrid(_)
                | Operator::ScaleAll(_)
                | Operator::Activate(_)
                | Operator::WindowAttention { .. }
                | Operator::LinearAttention(_)
                | Operator::Add
                | Operator::Mul
                | Operator::Channels { .. }
                | Operator::Concat
                | Operator::Scale(_)
                | Operator::Patches(_)
                | Operator::MeanTokens
                | Operator::PadToMultiple(_),
                inputs,
            ) => return Err(Error::shape("export", "one or two operands", inputs.len())),
        }
        Ok(())
    }

    fn binary(&mut self, id: Id, operator: &'static str, a: Id, b: Id) -> Result<()> {
        let layout = self.nearest(&[a, b]);
        let inputs = [self.form(a, layout)?, self.form(b, layout)?];
        let name = format!("{}/{operator}", self.path(id));
        let y = self.file.node(&name, operator, &inputs, &[], self.dims(id, layout));
        self.set(id, layout, y);
        Ok(())
    }

    /// An activation of `x`, which keeps its extents.
    pub(super) fn activation(&mut self, path: &str, x: Value, then: Activation) -> Value {
        let dims = self.file.dims(x).to_vec();
        let mut apply = |operator: &'static str, inputs: &[Value]| {
            self.file.node(&format!("{path}/{operator}"), operator, inputs, &[], dims.clone())
        };
        match then {
            Activation::None => x,
            Activation::Relu => apply("Relu", &[x]),
            Activation::Silu => {
                let gate = apply("Sigmoid", &[x]);
                apply("Mul", &[x, gate])
            }
            // The sequence that runtimes know as one operator; set 17 has none.
            Activation::Gelu => {
                let [root, one, half] = [SQRT_2, 1.0, 0.5].map(|number| self.scalar(number));
                let mut apply = |operator: &'static str, inputs: &[Value]| {
                    self.file.node(&format!("{path}/{operator}"), operator, inputs, &[], dims.clone())
                };
                let divided = apply("Div", &[x, root]);
                let erf = apply("Erf", &[divided]);
                let above = apply("Add", &[erf, one]);
                let product = apply("Mul", &[x, above]);
                apply("Mul", &[product, half])
            }
            Activation::Softplus => apply("Softplus", &[x]),
            Activation::EluPlusOne => {
                let elu = apply("Elu", &[x]);
                let one = self.scalar(1.0);
                self.file.node(&format!("{path}/Add"), "Add", &[elu, one], &[], dims)
            }
        }
    }

    fn linear(
        &mut self,
        id: Id,
        x: Id,
        (weight, bias): (&TensorPart, Option<TensorId>),
        then: Activation,
    ) -> Result<()> {
        let pooled = self.is_pooled(x);
        let inputs = self.trace.nodes()[x.0].channels;
        let (outputs, name) = (weight.values.len() / inputs, self.part_name(weight, inputs));
        let x = self.form(x, Layout::Last)?;
        let path = self.path(id).to_owned();
        let dims = self.dims(id, Layout::Last);
        let y = if pooled {
            let content = match name == self.trace.manifest()[weight.tensor.0].name {
                true => Content::Stored(weight.tensor),
                false => Content::Part(weight.clone()),
            };
            let mut operands = vec![x, self.file.initialiser(&name, &[outputs, inputs], content)];
            operands.extend(bias.map(|bias| self.stored(bias)));
            self.file.node(&path, "Gemm", &operands, &[("transB", Setting::Integer(1))], dims)
        } else {
            let content = Content::Transposed { weight: weight.clone(), inputs };
            let weight = self.file.initialiser(&name, &[inputs, outputs], content);
            let name = if bias.is_some() { format!("{path}/MatMul") } else { path.clone() };
            let product = self.file.node(&name, "MatMul", &[x, weight], &[], dims.clone());
            match bias {
                Some(bias) => {
                    let bias = self.stored(bias);
                    self.file.node(&path, "Add", &[product, bias], &[], dims)
                }
                None => product,
            }
        };
        let y = self.activation(&path, y, then);
        self.set(id, Layout::Last, y);
        Ok(())
    }

    fn convolution(
        &mut self,
        id: Id,
        x: Id,
        (weight, bias): (TensorId, Option<TensorId>),
        window: Window,
        groups: usize,
    ) -> Result<()> {
        let norm = self.only_user(id).and_then(|(user, operator)| match *operator {
            Operator::BatchNorm { tensors, eps } => Some((user, Norm { tensors, eps })),
            _ => None,
        });
        let shape = self.trace.manifest()[weight.0].shape.clone();
        let (image, [below, right]) = self.filled(x, window)?;
        let mut inputs = vec![image];
        let path = self.path(id).to_owned();
        match norm {
            None => {
                inputs.push(self.stored(weight));
                inputs.extend(bias.map(|bias| self.stored(bias)));
            }
            Some((_, norm)) => {
                inputs.push(self.parameter(weight, &shape, Content::FoldedWeight { weight, norm }));
                let name = bias.map_or(format!("{path}.bias"), |bias| self.trace.manifest()[bias.0].name.clone());
                inputs.push(self.file.initialiser(&name, &shape[..1], Content::FoldedBias { bias, norm }));
            }
        }
        let Window { kernel, stride, padding } = window;
        let pads = [padding, padding, padding + below, padding + right];
        let settings = conv_settings(groups, kernel, stride, pads);
        let y = self.file.node(&path, "Conv", &inputs, &settings, self.dims(id, Layout::Planes));
        self.set(id, Layout::Planes, y);
        if let Some((norm, _)) = norm {
            self.set(norm, Layout::Planes, y);
        }
        Ok(())
    }

    /// The planes of `x` for a window that may be larger than they are, and what the convolution still has to add below and
    /// to the right: zeros until one window fits ([`Window::output`]).
    fn filled(&mut self, x: Id, window: Window) -> Result<(Value, [usize; 2])> {
        let planes = self.form(x, Layout::Planes)?;
        let needed = window.kernel.saturating_sub(2 * window.padding);
        let extents = self.trace.nodes()[x.0].extents.clone();
        match self.extents {
            Extents::Fixed(sizes) => Ok((planes, [1, 2].map(|axis| needed.saturating_sub(extents[axis].at(sizes))))),
            Extents::Dynamic => {
                let least = Sizes { batch: 1, height: 1, width: 1 };
                if extents[1].at(least) >= needed && extents[2].at(least) >= needed {
                    return Ok((planes, [0, 0]));
                }
                let path = format!("{}/filled", self.path(x));
                let grid = self.rows_and_columns(&path, planes, Layout::Planes);
                let needed_value = self.list(&[needed as i64; 2]);
                let lacking = self.whole(&path, "Sub", needed_value, grid);
                let zero = self.list(&[0; 2]);
                let lacking = self.whole(&path, "Max", lacking, zero);
                let pads = self.pads_below(&path, lacking);
                let mut dims = self.file.dims(planes).to_vec();
                for dim in &mut dims[2..] {
                    if let Dim::Text(text) = dim {
                        *text = format!("max({text}, {needed})");
                    }
                }
                Ok((self.file.node(&path, "Pad", &[planes, pads], &[], dims), [0, 0]))
            }
        }
    }
}

/// The settings of a convolution; `pads` are above, left, below, right.
pub(super) fn conv_settings(
    groups: usize,
    kernel: usize,
    stride: usize,
    pads: [usize; 4],
) -> [(&'static str, Setting); 5] {
    let list = |values: &[usize]| Setting::Integers(values.iter().map(|&n| n as i64).collect());
    [
        ("dilations", list(&[1, 1])),
        ("group", Setting::Integer(groups as i64)),
        ("kernel_shape", list(&[kernel; 2])),
        ("pads", list(&pads)),
        ("strides", list(&[stride; 2])),
    ]
}

#[cfg(test)]
mod tests {
    use mila_ops::{BatchNormWanted, Builder, Executor, Init, LinearAttention, LinearWanted, Wanted};

    use super::*;
    use crate::{Graph, Shaped};

    /// What the export of a body on 12 channels says.
    fn exported(body: impl FnOnce(&mut Graph) -> Shaped) -> Result<()> {
        let mut graph = Graph::default();
        let output = body(&mut graph).id;
        let (nodes, manifest) = graph.finish();
        let trace = Trace { nodes, outputs: vec![output], manifest };
        [Extents::Dynamic, Extents::Fixed(Sizes::square(8))].iter().try_for_each(|&e| trace.onnx(e).map(|_| ()))
    }

    fn attention(graph: &mut Graph, heads: usize, then: Activation) -> Shaped {
        let source = graph.source();
        let qk = Builder::new(graph, &source).linear("attn.qk", 12, 24).expect("a linear map");
        let v = graph.image(12);
        let qk = graph.linear(&v, &qk, then).expect("a map");
        graph.linear_attention(&qk, &v, LinearAttention::mila(heads)).expect("a map")
    }

    fn refusal(body: impl FnOnce(&mut Graph) -> Shaped) -> String {
        exported(body).expect_err("a refusal").to_string()
    }

    #[test]
    fn attention_of_a_linear_map_is_exported() {
        exported(|graph| attention(graph, 2, Activation::None)).expect("a model");
    }

    #[test]
    fn what_onnx_cannot_say_is_refused_with_the_layer_and_the_reason() {
        let odd = refusal(|graph| attention(graph, 4, Activation::None));
        assert_eq!(odd, "`attn` in ONNX is not supported: the pairs of a rotation lie in two heads");
        let active = refusal(|graph| attention(graph, 2, Activation::Relu));
        assert_eq!(active, "`attn` in ONNX is not supported: its queries and keys are no linear map of their own");
        let norm = refusal(|graph| {
            let source = graph.source();
            let wanted = |part: &str| Wanted::buffer(format!("norm.{part}"), &[12], Init::Zeros);
            let wanted = BatchNormWanted {
                name: "norm".into(),
                weight: wanted("weight"),
                bias: wanted("bias"),
                running_mean: wanted("running_mean"),
                running_var: wanted("running_var"),
                eps: 1e-5,
            };
            let norm = graph.prepare_batch_norm(wanted, &source).expect("a norm");
            graph.batch_norm(&graph.image(12), &norm).expect("a map")
        });
        assert_eq!(norm, "batch norm `norm` in ONNX is not supported: it follows no convolution of its own");
        let pooled = refusal(|graph| {
            let source = graph.source();
            let weight = Wanted::parameter("attn.qk.weight".into(), &[24, 12], Init::Zeros);
            let qk = graph.prepare_linear(LinearWanted::new(weight, None), &source).expect("a linear map");
            let v = graph.mean_tokens(&graph.image(12)).expect("a map");
            let qk = graph.linear(&v, &qk, Activation::None).expect("a map");
            graph.linear_attention(&qk, &v, LinearAttention::mila(2)).expect("a map")
        });
        assert!(pooled.contains("a pooled map has no rows and columns"), "{pooled}");
    }
}
