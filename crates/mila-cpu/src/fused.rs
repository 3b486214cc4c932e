//! Composites of a linear map and what lies beside it.

use mila_kernels::{channels, linear};
use mila_ops::{
    Activation, Executor, GatedConv, GatedInput, NormedLinear, Onto, Residual, Result, Tap, composed, shape,
};

use crate::arguments::{epilogue, kernel_activation};
use crate::buffer::Map;
use crate::executor::Cpu;
use crate::prepared::Linear;

impl Cpu {
    pub(crate) fn fused_gated_input(
        &self,
        x: &Map,
        p: &GatedInput<Self>,
        tap: &mut dyn Tap<Self>,
    ) -> Result<(Map, Map)> {
        if tap.wants(&p.norm_name) {
            return composed::gated_input(self, x, p, tap);
        }
        shape::channels("layer norm", p.norm.weight.len(), x.dims().channels)?;
        for linear in [&p.gate, &p.inner] {
            shape::channels("linear", linear.weight.depth(), x.dims().channels)?;
        }
        let [gate_dims, inner_dims] = [&p.gate, &p.inner].map(|p| x.dims().with_channels(p.weight.columns()));
        let (mut gate, mut inner) = (self.pool.map(gate_dims), self.pool.map(inner_dims));
        self.begin("normed linear pair");
        // Nothing else can share maps that the pool has just made.
        if let (Some(gate), Some(inner)) = (gate.unique(), inner.unique()) {
            let silu = epilogue(gate_dims, p.gate.bias.as_deref(), Activation::Silu, None)?;
            let plain = epilogue(inner_dims, p.inner.bias.as_deref(), Activation::None, None)?;
            let layers = [(&p.gate.weight, silu, gate), (&p.inner.weight, plain, inner)];
            linear::forward_normed_pair(self.isa(), x.values(), p.norm.kernel(), layers);
        }
        self.end(gate_dims.with_channels(gate_dims.channels + inner_dims.channels));
        Ok((gate, inner))
    }

    pub(crate) fn fused_gated_output(&self, x: Map, gate: &Map, p: &Linear, add: Residual<Self>) -> Result<Map> {
        if add.layer_scale.is_some() {
            return composed::gated_output(self, x, gate, p, add);
        }
        shape::same("gate", &x.dims(), &gate.dims())?;
        shape::channels("linear", p.weight.depth(), x.dims().channels)?;
        let residual = match &add.onto {
            Onto::Input => &x,
            Onto::Map(onto) => onto,
        };
        let dims = x.dims().with_channels(p.weight.columns());
        let epilogue = epilogue(dims, p.bias.as_deref(), Activation::None, Some(residual))?;
        let forward = |y: &mut [f32]| {
            linear::forward_gated(self.isa(), x.values(), gate.values(), &p.weight, epilogue, y);
        };
        self.operator("gated linear", dims, forward)
    }

    pub(crate) fn fused_normed_linear(&self, x: &Map, p: &NormedLinear<Self>, tap: &mut dyn Tap<Self>) -> Result<Map> {
        if tap.wants(&p.norm_name) {
            return composed::normed_linear(self, x, p, tap);
        }
        let weight = &p.linear.weight;
        shape::channels("layer norm", p.norm.weight.len(), x.dims().channels)?;
        shape::channels("linear", weight.depth(), x.dims().channels)?;
        let dims = x.dims().with_channels(weight.columns());
        let epilogue = epilogue(dims, p.linear.bias.as_deref(), Activation::None, None)?;
        let forward =
            |y: &mut [f32]| linear::forward_normed(self.isa(), x.values(), p.norm.kernel(), weight, epilogue, y);
        self.operator("normed linear", dims, forward)
    }

    pub(crate) fn fused_linear_residual(&self, x: Map, p: &Linear, add: Residual<Self>) -> Result<Map> {
        match add {
            Residual { layer_scale: None, onto: Onto::Input, .. } => {
                self.linear_onto(&x, p, Activation::None, Some(&x))
            }
            Residual { layer_scale: None, onto: Onto::Map(onto), .. } => {
                self.linear_onto(&x, p, Activation::None, Some(&onto))
            }
            add => composed::linear_residual(self, x, p, add),
        }
    }

    /// The gate is applied where it stands, and the way out reads it there, beside what it came with.
    pub(crate) fn fused_gated_conv(
        &self,
        x: Map,
        p: &GatedConv<Self>,
        add: Residual<Self>,
        tap: &mut dyn Tap<Self>,
    ) -> Result<Map> {
        if add.layer_scale.is_some() || composed::taps_inside_gated_conv(p, tap) {
            return composed::gated_conv(self, x, p, add, tap);
        }
        let mut all = self.normed_linear(&x, &p.input, tap)?;
        let (dims, convolved) = (all.dims(), 2 * p.hidden - p.convolved);
        let local = self.conv(&self.channels(&all, convolved..2 * p.hidden)?, &p.conv, Activation::None)?;
        shape::same("gated convolution", &dims.with_channels(p.convolved), &local.dims())?;
        shape::channels("linear", p.fc2.weight.depth(), p.hidden)?;
        self.begin("gate");
        // Nothing else can share a map that an operator has just made.
        if let Some(all) = all.unique() {
            channels::gate(self.isa(), all, p.hidden, local.values(), kernel_activation(p.activation));
        }
        self.end(dims.with_channels(p.hidden));
        let residual = match &add.onto {
            Onto::Input => &x,
            Onto::Map(onto) => onto,
        };
        let (weight, dims) = (&p.fc2.weight, dims.with_channels(p.fc2.weight.columns()));
        let epilogue = epilogue(dims, p.fc2.bias.as_deref(), Activation::None, Some(residual))?;
        let stride = 2 * p.hidden;
        let forward = |y: &mut [f32]| linear::forward_strided(self.isa(), all.values(), stride, weight, epilogue, y);
        self.operator("gated linear", dims, forward)
    }
}
