//! Operators that see which token is which: causal convolutions and class tokens.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use mila_kernels::causal_conv;
use mila_ops::{Activation, CausalConv, Dims, Error, Result, ScanOrder, TokenPlace, shape};

use crate::Cpu;
use crate::arguments::kernel_activation;
use crate::buffer::Map;
use crate::prepared::{Kernel, Table};

/// Tables that are kept: the four orders of Mamba-ND at two of its resolutions, twice.
const TABLES: usize = 16;

/// Order, and height, width and taps.
type Key = (ScanOrder, [usize; 3]);

/// Which tokens the taps of a causal convolution read.
#[derive(Debug, Default)]
pub(crate) struct Sources(RwLock<HashMap<Key, Arc<Vec<u32>>>>);

impl Sources {
    fn of(&self, order: ScanOrder, dims: Dims, taps: usize) -> Result<Arc<Vec<u32>>> {
        let key = (order, [dims.height, dims.width, taps]);
        if let Some(table) = self.0.read().unwrap_or_else(PoisonError::into_inner).get(&key) {
            return Ok(Arc::clone(table));
        }
        let table = Arc::new(order.steps(dims.height, dims.width)?.sources(taps));
        let mut tables = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if tables.len() >= TABLES {
            tables.clear();
        }
        tables.insert(key, Arc::clone(&table));
        Ok(table)
    }
}

impl Cpu {
    pub(crate) fn causally_convolved(
        &self,
        x: &Map,
        p: &CausalConv<Self>,
        order: ScanOrder,
        then: Activation,
    ) -> Result<Map> {
        let Kernel::Depthwise(weight) = &p.conv.kernel else {
            let what = "a causal convolution of one channel".into();
            return Err(Error::Unsupported { what, why: "it is not prepared as a depthwise one".into() });
        };
        shape::channels("causal convolution", p.conv.inputs, x.dims().channels)?;
        let table = self.sources.of(order, x.dims(), p.taps)?;
        let (isa, bias, then) = (self.isa(), p.conv.bias.as_deref(), kernel_activation(then));
        let weight = (weight.as_slice(), p.taps);
        let forward = |y: &mut [f32]| causal_conv::forward(isa, x.values(), &table, weight, bias, then, y);
        self.operator("causal convolution", x.dims(), forward)
    }

    /// The tokens of `x` in a row, with a class token among them.
    pub(crate) fn with_token(&self, x: &Map, token: &Table, place: TokenPlace) -> Result<Map> {
        let (dims, token) = (x.dims(), token.values.as_slice());
        shape::channels("class token", token.len(), dims.channels)?;
        let at = place.index(dims.tokens()) * dims.channels;
        let row = Dims { height: 1, width: dims.tokens() + 1, ..dims };
        self.operator("class token", row, |y| {
            let images = x.values().chunks_exact(dims.tokens() * dims.channels);
            for (y, image) in y.chunks_exact_mut(row.tokens() * row.channels).zip(images) {
                let (before, after) = image.split_at(at);
                y[..at].copy_from_slice(before);
                y[at..at + token.len()].copy_from_slice(token);
                y[at + token.len()..].copy_from_slice(after);
            }
        })
    }

    /// The class token of a row.
    pub(crate) fn token_of(&self, x: &Map, place: TokenPlace) -> Result<Map> {
        let dims = x.dims();
        shape::token_row(&dims.height, dims.height == 1)?;
        let at = place.index(dims.width - 1) * dims.channels;
        self.operator("class token", Dims { width: 1, ..dims }, |y| {
            let rows = x.values().chunks_exact(dims.width * dims.channels);
            for (y, row) in y.chunks_exact_mut(dims.channels).zip(rows) {
                y.copy_from_slice(&row[at..at + dims.channels]);
            }
        })
    }
}
