//! A model, traced.

use mila_models::{Output, Preset, Task};
use mila_ops::{Kind, NoTap, Result, Wanted, shape};

use crate::{Graph, Id, Node, Operator, Sizes};

/// The operators of one model on an image of symbolic batch, height and width, and its parameters.
#[derive(Clone, Debug)]
pub struct Trace {
    pub(crate) nodes: Vec<Node>,
    pub(crate) outputs: Vec<Id>,
    pub(crate) manifest: Vec<Wanted>,
}

impl Trace {
    /// Traces a registered model.
    ///
    /// # Errors
    /// Those of the model's body, for a preset that does not fit the algebra.
    pub fn of(preset: &Preset, task: Task) -> Result<Self> {
        let mut graph = Graph::default();
        let source = graph.source();
        let model = preset.build(&mut graph, &source, task)?;
        let outputs = match model.forward(&graph, graph.image(3), &mut NoTap)? {
            Output::Logits(map) => vec![map.id],
            Output::Pyramid(maps) => maps.iter().map(|map| map.id).collect(),
        };
        Ok(Self::of_graph(graph, outputs))
    }

    /// What a body has recorded, of which it returns `outputs`.
    pub fn of_graph(graph: Graph, outputs: Vec<Id>) -> Self {
        let (nodes, manifest) = graph.finish();
        Self { nodes, outputs, manifest }
    }

    /// The operators in the order in which they run.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// The nodes that the model returns: the logits, or the maps of the pyramid.
    pub fn outputs(&self) -> &[Id] {
        &self.outputs
    }

    /// Every tensor that the model asks for, buffers included, in the order of the released checkpoints.
    pub fn manifest(&self) -> &[Wanted] {
        &self.manifest
    }

    /// Whether the model runs at `sizes`: absolute positions are made for one grid of tokens.
    ///
    /// # Errors
    /// `Shape`, with the grid that is expected.
    pub fn fits(&self, sizes: Sizes) -> Result<()> {
        for node in &self.nodes {
            let [height, width] = [1, 2].map(|axis| node.extents[axis].at(sizes));
            if let Operator::RequireGrid(grid) = node.operator {
                shape::grid(grid, [height, width])?;
            }
            if let Operator::AddPositions(table) = node.operator
                && let &[rows, columns, channels] = self.manifest[table.0].shape.as_slice()
            {
                shape::positions([rows, columns, channels], [height, width, node.channels])?;
            }
        }
        Ok(())
    }

    /// Trained values.
    pub fn parameters(&self) -> usize {
        self.manifest.iter().filter(|w| w.kind == Kind::Parameter).map(Wanted::volume).sum()
    }

    pub(crate) fn is_output(&self, node: usize) -> bool {
        self.outputs.contains(&Id(node))
    }
}
