//! One custom Burn operation that carries any of our kernels, with a backward step of its own.
//!
//! Burn wants, per custom operation, a trait method for each backend and a backward step with a fixed number of
//! parents. All our kernels have up to three tensor inputs and one output, so a single pair of methods serves them all,
//! and [`Operation`](crate::operation::Operation) says which kernel runs. Absent inputs are one-element dummies.

use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, Dispatch, Flex, TensorMetadata, backend_extension};
use burn::tensor::{DType, Shape, Tensor};
use burn_autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn_autodiff::grads::Gradients;
use burn_autodiff::ops::{Backward, Ops, OpsKind};
use burn_autodiff::{Autodiff, NodeId};
use burn_flex::{FlexTensor, Layout};

use crate::operation::Call;

/// Our kernels as an extension of a Burn backend.
#[backend_extension(Flex, Autodiff)]
pub(crate) trait KernelOps: Backend {
    /// The output of `call` for its inputs.
    fn kernel(call: Call, x: FloatTensor<Self>, a: FloatTensor<Self>, b: FloatTensor<Self>) -> FloatTensor<Self>;

    /// Gradients of `call` for its inputs, given that of its output; those not `wanted` may be anything of their shape.
    fn kernel_backward(
        call: Call,
        x: FloatTensor<Self>,
        a: FloatTensor<Self>,
        b: FloatTensor<Self>,
        dy: FloatTensor<Self>,
        wanted: [bool; 3],
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>);
}

/// Runs `call` on a map and up to two parameters.
pub(crate) fn apply(call: Call, x: Tensor<4>, [a, b]: [Option<Tensor<1>>; 2]) -> Tensor<4> {
    let dummy = || Tensor::<1>::zeros([1], &x.device());
    let [a, b] = [a, b].map(|input| input.unwrap_or_else(dummy).into_dispatch());
    Tensor::from_dispatch(Dispatch::kernel(call, x.into_dispatch(), a, b))
}

/// Runs `call` on two maps.
pub(crate) fn apply_pair(call: Call, x: Tensor<4>, a: Tensor<4>) -> Tensor<4> {
    let dummy = Tensor::<1>::zeros([1], &x.device());
    Tensor::from_dispatch(Dispatch::kernel(call, x.into_dispatch(), a.into_dispatch(), dummy.into_dispatch()))
}

fn tensor(values: Vec<f32>, shape: Shape) -> FlexTensor {
    FlexTensor::new(burn_std::Bytes::from_elems(values), Layout::contiguous(shape), DType::F32)
}

/// The values of a contiguous f32 tensor.
fn slice(tensor: &FlexTensor) -> &[f32] {
    assert_eq!(tensor.dtype(), DType::F32, "a kernel's input");
    tensor.storage()
}

impl KernelOps for Flex {
    fn kernel(call: Call, x: FlexTensor, a: FlexTensor, b: FlexTensor) -> FlexTensor {
        let [x, a, b] = [x, a, b].map(|t| t.to_contiguous());
        let shape = x.shape();
        let map = [shape[0], shape[1], shape[2], shape[3]];
        let (values, extent) = call.forward(map, slice(&x), slice(&a), slice(&b));
        tensor(values, Shape::from(extent.to_vec()))
    }

    fn kernel_backward(
        call: Call,
        x: FlexTensor,
        a: FlexTensor,
        b: FlexTensor,
        dy: FlexTensor,
        wanted: [bool; 3],
    ) -> (FlexTensor, FlexTensor, FlexTensor) {
        let [x, a, b, dy] = [x, a, b, dy].map(|t| t.to_contiguous());
        let shape = x.shape();
        let map = [shape[0], shape[1], shape[2], shape[3]];
        let [dx, da, db] = call.backward(map, [slice(&x), slice(&a), slice(&b)], slice(&dy), wanted);
        (tensor(dx, x.shape()), tensor(da, a.shape()), tensor(db, b.shape()))
    }
}

/// The backward step: what the forward pass kept of each input.
#[derive(Debug)]
struct Step;

impl<B: KernelOps> Backward<B, 3> for Step {
    type State = (Call, [NodeId; 3]);

    fn backward(self, ops: Ops<Self::State, 3>, grads: &mut Gradients, checkpointer: &mut Checkpointer) {
        let (call, inputs) = ops.state;
        let dy = grads.consume::<B>(&ops.node);
        let [x, a, b] = inputs.map(|node| checkpointer.retrieve_node_output(node));
        let wanted = [0, 1, 2].map(|i| ops.parents[i].is_some());
        let (dx, da, db) = B::kernel_backward(call, x, a, b, dy, wanted);
        for (node, gradient) in ops.parents.into_iter().zip([dx, da, db]) {
            if let Some(node) = node {
                grads.register::<B>(node.id, gradient);
            }
        }
    }
}

impl<B: KernelOps, C: CheckpointStrategy> KernelOps for Autodiff<B, C> {
    fn kernel(call: Call, x: FloatTensor<Self>, a: FloatTensor<Self>, b: FloatTensor<Self>) -> FloatTensor<Self> {
        match Step.prepare::<C>([x.node(), a.node(), b.node()]).compute_bound().stateful() {
            OpsKind::Tracked(mut prep) => {
                let state = (call.clone(), [&x, &a, &b].map(|input| prep.checkpoint(input)));
                let output = B::kernel(call, x.into_primitive(), a.into_primitive(), b.into_primitive());
                prep.finish(state, output)
            }
            OpsKind::UnTracked(prep) => {
                prep.finish(B::kernel(call, x.into_primitive(), a.into_primitive(), b.into_primitive()))
            }
        }
    }

    fn kernel_backward(
        _: Call,
        _: FloatTensor<Self>,
        _: FloatTensor<Self>,
        _: FloatTensor<Self>,
        _: FloatTensor<Self>,
        _: [bool; 3],
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        unreachable!("only first-order gradients are taken")
    }
}
