//! Operators that see which token is which, recorded.

use mila_ops::{Activation, CausalConv, Result, ScanOrder, TokenPlace, shape};

use crate::executor::Parameter;
use crate::{Extent, Graph, Operator, Shaped};

impl Graph {
    pub(crate) fn record_causal_conv(
        &self,
        x: &Shaped,
        p: &CausalConv<Self>,
        order: ScanOrder,
        then: Activation,
    ) -> Result<Shaped> {
        shape::channels("causal convolution", p.conv.inputs, x.channels)?;
        // What does not depend on the grid.
        order.count(1, 1)?;
        let operator = Operator::CausalConv { weight: p.conv.weight, bias: p.conv.bias, taps: p.taps, order, then };
        let macs = (p.taps * x.channels) as u64;
        Ok(self.record(&p.conv.name, operator, &[x], x.extents.clone(), x.channels, macs))
    }

    pub(crate) fn record_insert_token(&self, x: &Shaped, token: &Parameter, place: TokenPlace) -> Result<Shaped> {
        shape::channels("class token", token.volume, x.channels)?;
        let [batch, height, width] = &x.extents;
        let row = [batch.clone(), Extent::Number(1), Extent::tokens(height, width).affine(1, 1)];
        let operator = Operator::InsertToken { token: token.tensor, place };
        Ok(self.record(&token.name, operator, &[x], row, x.channels, 0))
    }

    pub(crate) fn record_take_token(&self, x: &Shaped, place: TokenPlace) -> Result<Shaped> {
        shape::token_row(&x.extents[1], x.extents[1] == Extent::Number(1))?;
        let one = [x.extents[0].clone(), Extent::Number(1), Extent::Number(1)];
        Ok(self.record("", Operator::TakeToken(place), &[x], one, x.channels, 0))
    }
}
