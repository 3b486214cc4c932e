//! Exact costs of a traced model at given input sizes.

use std::collections::HashMap;

use mila_ops::Kind;

use crate::{Node, Operator, Recorded, Trace};

/// Extents of the input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// Images.
    pub batch: usize,
    /// Rows of pixels.
    pub height: usize,
    /// Columns of pixels.
    pub width: usize,
}

impl Sizes {
    /// One square image.
    pub fn square(side: usize) -> Self {
        Self { batch: 1, height: side, width: side }
    }
}

/// Multiply-accumulates and memory of one pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cost {
    /// Convolutions, linear maps and matrix products; fvcore's convention without norms.
    pub macs: u64,
    /// And norms: 5 a value for layer norm, 2 for batch norm in evaluation (fvcore's convention), 3 for RMSNorm, which
    /// fvcore does not know.
    pub macs_with_norms: u64,
    /// `macs` and recurrences: 9 for every element of the state of S6 and one for its shortcut, as the published tables of
    /// the Mamba families count; other gates' elements count 3, and 2 without one.
    pub macs_with_scan: u64,
    /// Bytes of the maps that live at once at the worst moment, in f32, each map freed after its last use.
    pub activation_bytes: u64,
}

/// One row of the per-layer table.
#[derive(Clone, Debug, PartialEq)]
pub struct Layer {
    /// Parameter path.
    pub name: String,
    /// `[height, width, channels]` of its output.
    pub output: [usize; 3],
    /// Trained values.
    pub parameters: usize,
    /// Multiply-accumulates without norms.
    pub macs: u64,
    /// What recurrences add to them, as in [`Cost::macs_with_scan`].
    pub scan_macs: u64,
}

impl Node {
    /// Multiply-accumulates without norms.
    fn macs(&self, sizes: Sizes) -> u64 {
        let per_token = match self.operator {
            // Scores, and sums of values, over a whole window: also where a border cuts it, as the published counts have it.
            Operator::WindowAttention { windows, .. } => {
                let [height, width] = [1, 2].map(|axis| self.extents[axis].at(sizes).min(windows.side));
                (2 * self.channels * height * width) as u64
            }
            _ => self.macs_per_token,
        };
        self.tokens(sizes) * per_token
    }

    fn tokens(&self, sizes: Sizes) -> u64 {
        self.extents.iter().map(|extent| extent.at(sizes) as u64).product()
    }

    fn scan_macs(&self, sizes: Sizes) -> u64 {
        match &self.operator {
            Operator::Recurrence(recorded) => recorded.scan_macs(&self.extents, sizes),
            _ => 0,
        }
    }
}

impl Trace {
    /// The costs for an input of `sizes`.
    pub fn cost(&self, sizes: Sizes) -> Cost {
        let sum = |f: fn(&Node) -> u64| self.nodes().iter().map(|n| n.tokens(sizes) * f(n)).sum::<u64>();
        let macs = self.nodes().iter().map(|n| n.macs(sizes)).sum::<u64>();
        Cost {
            macs,
            macs_with_norms: macs + sum(|n| n.norm_macs_per_token),
            macs_with_scan: macs + self.nodes().iter().map(|n| n.scan_macs(sizes)).sum::<u64>(),
            activation_bytes: self.peak_bytes(sizes),
        }
    }

    /// Every layer that has parameters or multiplies, in the order in which they first run.
    ///
    /// A layer that is several nodes, as a linear map in parts, is one row with the output of the last. Recurrences have their own,
    /// named by the module that holds their tensors.
    pub fn layers(&self, sizes: Sizes) -> Vec<Layer> {
        let mut layers: Vec<Layer> = Vec::new();
        let mut rows = HashMap::new();
        for n in self.nodes().iter().filter(|n| !n.name.is_empty()) {
            let name = match &n.operator {
                Operator::Recurrence(recorded) => format!("{} (scan)", self.module_of(recorded, n)),
                _ => n.name.clone(),
            };
            let row = *rows.entry(name.clone()).or_insert_with(|| {
                layers.push(Layer { name, output: [0; 3], parameters: 0, macs: 0, scan_macs: 0 });
                layers.len() - 1
            });
            let layer = &mut layers[row];
            layer.output = [n.extents[1].at(sizes), n.extents[2].at(sizes), n.channels];
            layer.parameters += self.parameters_of(n);
            layer.macs += n.macs(sizes);
            layer.scan_macs += n.scan_macs(sizes);
        }
        layers
    }

    /// What the paths of a recurrence's tensors begin with; the node's own name if it has none.
    fn module_of<'a>(&'a self, recorded: &Recorded, node: &'a Node) -> &'a str {
        let mut names = recorded.tensors().into_iter().map(|part| self.manifest()[part.tensor.0].name.as_str());
        let Some(mut module) = names.next().and_then(|name| name.rsplit_once('.')).map(|(module, _)| module) else {
            return &node.name;
        };
        for name in names {
            while !(name.starts_with(module) && name[module.len()..].starts_with('.')) {
                let Some((shorter, _)) = module.rsplit_once('.') else { return &node.name };
                module = shorter;
            }
        }
        module
    }

    /// How many trained values a node has.
    fn parameters_of(&self, node: &Node) -> usize {
        let mut part = 0;
        let ids = match &node.operator {
            Operator::Linear { weight, bias, .. } => {
                part = weight.values.len();
                [*bias, None]
            }
            Operator::Convolution { weight, bias, .. } | Operator::CausalConv { weight, bias, .. } => {
                [Some(*weight), *bias]
            }
            Operator::BatchNorm { tensors, .. } => [Some(tensors[0]), Some(tensors[1])],
            Operator::LayerNorm { tensors, .. } => tensors.map(Some),
            Operator::RmsNorm { weight, .. } => [Some(*weight), None],
            Operator::Recurrence(recorded) => {
                return recorded.tensors().into_iter().map(|part| part.values.len()).sum();
            }
            Operator::Scale(tensor)
            | Operator::AddPositions(tensor)
            | Operator::InsertToken { token: tensor, .. }
            | Operator::WindowAttention { table: tensor, .. } => [Some(*tensor), None],
            _ => [None, None],
        };
        let tensors = ids.into_iter().flatten().map(|id| &self.manifest()[id.0]);
        part + tensors.filter(|t| t.kind == Kind::Parameter).map(mila_ops::Wanted::volume).sum::<usize>()
    }

    /// The largest sum of maps that are alive at once when nodes run in order and die after their last use.
    fn peak_bytes(&self, sizes: Sizes) -> u64 {
        let nodes = self.nodes();
        let bytes = |n: &Node| n.tokens(sizes) * n.channels as u64 * 4;
        let mut last_use: Vec<usize> = (0..nodes.len()).collect();
        for (i, node) in nodes.iter().enumerate() {
            node.inputs.iter().for_each(|input| last_use[input.0] = i);
        }
        let (mut alive, mut peak) = (0, 0);
        for (i, node) in nodes.iter().enumerate() {
            alive += bytes(node);
            peak = peak.max(alive);
            let ended = (0..=i).filter(|&j| last_use[j] == i && (j != i || !self.is_output(j)));
            alive -= ended.map(|j| bytes(&nodes[j])).sum::<u64>();
        }
        peak
    }
}
