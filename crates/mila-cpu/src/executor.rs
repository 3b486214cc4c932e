//! The operator algebra over pooled buffers.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Arc, PoisonError, RwLock};

use mila_kernels::linear_attention::{self, Attention, Rotations};
use mila_kernels::{
    Centre, Isa, WindowAttention, activation, bottleneck, channels, conv, depthwise, elementwise, layer_norm, linear,
    mlp, pool, rms_norm, window_attention,
};
use mila_ops::{
    Activation, BatchNormWanted, Bottleneck, CausalConv, ConvWanted, Dims, DropPath, Executor, FusedBottleneck,
    GatedConv, GatedInput, LinearAttention, LinearWanted, Mlp, NormWanted, Normalisation, NormedLinear, Onto,
    PatchOrder, Positions, RecurrenceOn, Residual, Result, ScanOrder, Source, Tap, TokenPlace, Wanted, Window, Windows,
    composed, rope2d, shape,
};

use crate::arguments::{epilogue, extent, kernel_activation, kernel_window};
use crate::buffer::{Map, Pool, Recycling};
use crate::observer::Observer;
use crate::prepared::{Affine, Conv, Kernel, Linear, Norm, Precision, Table, fetch};
use crate::recurrence::{self, Orders};
use crate::sequence::Sources;

/// Rotary tables that are kept: four sizes of a model of four stages. A stream of ever new sizes must not fill the memory.
const TABLES: usize = 16;

/// The fast CPU executor. Feature maps are f32.
#[derive(Debug)]
pub struct Cpu {
    isa: Isa,
    precision: Precision,
    pub(crate) pool: Arc<Pool>,
    observer: Option<Arc<dyn Observer>>,
    /// Rotary tables by height, width and channels.
    rotations: RwLock<HashMap<[usize; 3], Arc<Rotations>>>,
    pub(crate) orders: Orders,
    pub(crate) sources: Sources,
}

impl Default for Cpu {
    /// On the strongest instruction set of this processor.
    fn default() -> Self {
        Self::new(Isa::detect())
    }
}

impl Cpu {
    /// On the given instruction set.
    pub fn new(isa: Isa) -> Self {
        Self::with_recycling(isa, Recycling::AsIs)
    }

    /// With a rule for recycled memory; tests poison it.
    pub fn with_recycling(isa: Isa, recycling: Recycling) -> Self {
        Self {
            isa,
            precision: Precision::F32,
            pool: Arc::new(Pool::new(recycling)),
            observer: None,
            rotations: RwLock::default(),
            orders: Orders::default(),
            sources: Sources::default(),
        }
    }

    /// With products in another precision than f32, for the models that are prepared from now on.
    #[must_use]
    pub fn with_precision(self, precision: Precision) -> Self {
        Self { precision, ..self }
    }

    /// With somebody who is told of every operator.
    #[must_use]
    pub fn observed(self, observer: Arc<dyn Observer>) -> Self {
        Self { observer: Some(observer), ..self }
    }

    /// A fresh map of `dims`, written by the operator `name`.
    pub(crate) fn operator(&self, name: &'static str, dims: Dims, write: impl FnOnce(&mut [f32])) -> Result<Map> {
        self.begin(name);
        let map = self.written(dims, write);
        self.end(dims);
        Ok(map)
    }

    pub(crate) fn begin(&self, operator: &'static str) {
        if let Some(observer) = &self.observer {
            observer.begin(operator);
        }
    }

    pub(crate) fn end(&self, output: Dims) {
        if let Some(observer) = &self.observer {
            observer.end(output);
        }
    }

    /// The instruction set that the kernels run on.
    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// The precision of products.
    pub fn precision(&self) -> Precision {
        self.precision
    }

    fn rotations(&self, dims: Dims) -> Arc<Rotations> {
        let key = [dims.height, dims.width, dims.channels];
        if let Some(table) = self.rotations.read().unwrap_or_else(PoisonError::into_inner).get(&key) {
            return Arc::clone(table);
        }
        let [rows, columns] = [dims.height, dims.width].map(|extent| rope2d::axis(extent, dims.channels));
        let table = Arc::new(Rotations::new(&rows, &columns, dims.channels));
        let mut tables = self.rotations.write().unwrap_or_else(PoisonError::into_inner);
        if tables.len() >= TABLES {
            tables.clear();
        }
        tables.insert(key, Arc::clone(&table));
        table
    }

    /// A fresh map of `dims`, written by `write`.
    pub(crate) fn written(&self, dims: Dims, write: impl FnOnce(&mut [f32])) -> Map {
        let mut map = self.pool.map(dims);
        // Nothing else can share a map that the pool has just made.
        if let Some(values) = map.unique() {
            write(values);
        }
        map
    }

    /// `x` changed by `change`, in place where nothing else shares it.
    pub(crate) fn changed(&self, mut x: Map, change: impl FnOnce(&mut [f32])) -> Map {
        if let Some(values) = x.unique() {
            change(values);
            return x;
        }
        self.written(x.dims(), |values| {
            values.copy_from_slice(x.values());
            change(values);
        })
    }

    /// The linear map, then the activation, then the residual.
    pub(crate) fn linear_onto(&self, x: &Map, p: &Linear, then: Activation, residual: Option<&Map>) -> Result<Map> {
        shape::channels("linear", p.weight.depth(), x.dims().channels)?;
        let dims = x.dims().with_channels(p.weight.columns());
        let epilogue = epilogue(dims, p.bias.as_deref(), then, residual)?;
        self.operator("linear", dims, |y| linear::forward(self.isa, x.values(), &p.weight, epilogue, y))
    }

    /// The convolution, then the activation, then the residual.
    fn conv_onto(&self, x: &Map, p: &Conv, then: Activation, residual: Option<&Map>) -> Result<Map> {
        shape::channels("convolution", p.inputs, x.dims().channels)?;
        let fitted = self.fitted(x, p.window);
        let x = fitted.as_ref().unwrap_or(x);
        let input = x.dims();
        let (height, width) = (p.window.output(input.height), p.window.output(input.width));
        let dims = Dims::new(input.batch, height, width, p.outputs);
        let epilogue = epilogue(dims, p.bias.as_deref(), then, residual)?;
        let (isa, values, extent, window) = (self.isa, x.values(), extent(input), kernel_window(p.window));
        let name = match p.kernel {
            Kernel::Pointwise(_) => "pointwise convolution",
            Kernel::Depthwise(_) => "depthwise convolution",
            Kernel::Full(_) => "convolution",
        };
        self.operator(name, dims, |y| match &p.kernel {
            Kernel::Pointwise(weight) => linear::forward(isa, values, weight, epilogue, y),
            Kernel::Depthwise(weight) => depthwise::forward(isa, values, extent, window, weight, epilogue, y),
            Kernel::Full(weight) => conv::forward(isa, values, extent, window, weight, epilogue, y),
        })
    }

    /// `x` with zeros below and to the right, where it is too small for one window; see [`Window::output`].
    fn fitted(&self, x: &Map, window: Window) -> Option<Map> {
        let missing = |n: usize| window.kernel.saturating_sub(n + 2 * window.padding);
        let Dims { height, width, .. } = x.dims();
        let (rows, columns) = (missing(height), missing(width));
        (rows + columns > 0).then(|| self.padded(x, height + rows, width + columns))
    }
}

impl Executor for Cpu {
    type Map = Map;
    type Linear = Linear;
    type Conv = Conv;
    type Norm = Norm;
    type BatchNorm = Affine;
    type Parameter = Table;

    fn prepare_linear(&mut self, wanted: LinearWanted, source: &dyn Source) -> Result<Linear> {
        Linear::load(self.isa, &wanted, source, self.precision)
    }

    fn prepare_conv(&mut self, wanted: ConvWanted, source: &dyn Source) -> Result<Conv> {
        Conv::load(self.isa, &wanted, source, self.precision)
    }

    fn prepare_layer_norm(&mut self, wanted: NormWanted, source: &dyn Source) -> Result<Norm> {
        Norm::load(&wanted, source)
    }

    fn prepare_batch_norm(&mut self, wanted: BatchNormWanted, source: &dyn Source) -> Result<Affine> {
        Affine::load(&wanted, source)
    }

    fn prepare_parameter(&mut self, wanted: Wanted, source: &dyn Source) -> Result<Table> {
        Ok(Table { values: fetch(source, &wanted)?, shape: wanted.shape })
    }

    fn linear(&self, x: &Map, p: &Linear, then: Activation) -> Result<Map> {
        self.linear_onto(x, p, then, None)
    }

    fn convolve(&self, x: &Map, p: &Conv) -> Result<Map> {
        self.conv_onto(x, p, Activation::None, None)
    }

    fn norm_of<'a>(&self, _: &'a Conv) -> Option<&'a Affine> {
        None
    }

    fn batch_norm(&self, x: &Map, p: &Affine) -> Result<Map> {
        shape::channels("batch norm", p.scale.len(), x.dims().channels)?;
        self.operator("batch norm", x.dims(), |y| {
            let channels = p.scale.len();
            for (y, x) in y.chunks_exact_mut(channels).zip(x.values().chunks_exact(channels)) {
                for c in 0..channels {
                    y[c] = x[c] * p.scale[c] + p.shift[c];
                }
            }
        })
    }

    fn layer_norm(&self, x: &Map, p: &Norm) -> Result<Map> {
        shape::channels("layer norm", p.weight.len(), x.dims().channels)?;
        let (weight, values) = (&p.weight, x.values());
        match p.centre {
            Centre::Mean => self.operator("layer norm", x.dims(), |y| {
                layer_norm::forward(self.isa, values, weight, Some(&p.bias), p.eps, y);
            }),
            Centre::Zero => {
                self.operator("rms norm", x.dims(), |y| rms_norm::forward(self.isa, values, weight, p.eps, y))
            }
        }
    }

    fn activate(&self, x: Map, then: Activation) -> Result<Map> {
        if then == Activation::None {
            return Ok(x);
        }
        let forward = |y: &mut [f32]| activation::forward(self.isa, kernel_activation(then), x.values(), y);
        self.operator("activation", x.dims(), forward)
    }

    fn window_attention(&self, qkv: &Map, table: &Table, heads: usize, windows: Windows) -> Result<Map> {
        let channels = shape::window_attention(qkv.dims().channels, table.values.len(), heads, windows)?;
        let (dims, Windows { side, shift }) = (qkv.dims().with_channels(channels), windows);
        let shape = WindowAttention { map: extent(dims), heads, side, shift };
        let forward = |y: &mut [f32]| window_attention::forward(self.isa, qkv.values(), &table.values, shape, y);
        self.operator("window attention", dims, forward)
    }

    fn linear_attention(&self, qk: &Map, v: &Map, form: LinearAttention) -> Result<Map> {
        let (dims, keys) = (v.dims(), qk.dims().channels / 2);
        shape::attention(qk.dims().channels, dims.channels, form)?;
        shape::same("linear attention", &dims.with_channels(2 * keys), &qk.dims())?;
        if dims.batch == 0 {
            return Ok(self.written(dims, |_| ()));
        }
        let rotations = (form.positions == Positions::Rotary).then(|| self.rotations(dims.with_channels(keys)));
        let normalisation = match form.normalisation {
            Normalisation::Absent => linear_attention::Normalisation::Absent,
            Normalisation::Weights => linear_attention::Normalisation::Weights,
        };
        let Dims { batch, channels, .. } = dims;
        let shape = Attention { batch, tokens: dims.tokens(), keys, channels, heads: form.heads, normalisation };
        let forward = |y: &mut [f32]| {
            linear_attention::forward(self.isa, qk.values(), v.values(), shape, rotations.as_deref(), y);
        };
        self.operator("linear attention", dims, forward)
    }

    fn recurrence(&self, r: &RecurrenceOn<'_, Self>) -> Result<(Map, Map)> {
        recurrence::one(self, r)
    }

    fn recurrences(&self, all: &[RecurrenceOn<'_, Self>]) -> Result<Map> {
        recurrence::sum(self, all)
    }

    fn add(&self, a: Map, b: &Map) -> Result<Map> {
        shape::same("add", &a.dims(), &b.dims())?;
        self.begin("add");
        let sum = self.changed(a, |a| elementwise::add_assign(self.isa, b.values(), a));
        self.end(sum.dims());
        Ok(sum)
    }

    fn mul(&self, a: Map, b: &Map) -> Result<Map> {
        shape::same("mul", &a.dims(), &b.dims())?;
        self.operator("mul", a.dims(), |y| elementwise::multiply(self.isa, a.values(), b.values(), y))
    }

    fn channels(&self, x: &Map, range: Range<usize>) -> Result<Map> {
        let dims = x.dims();
        shape::channel_range(&range, dims.channels)?;
        let (width, values) = (dims.with_channels(range.len()), x.values());
        self.operator("channels", width, |y| channels::take(values, dims.channels, range, y))
    }

    fn concat(&self, a: &Map, b: &Map) -> Result<Map> {
        let (dims, widths) = (a.dims(), [a.dims().channels, b.dims().channels]);
        shape::same("concat", &dims.with_channels(widths[1]), &b.dims())?;
        let join = |y: &mut [f32]| channels::join([a.values(), b.values()], widths, y);
        self.operator("concat", dims.with_channels(widths[0] + widths[1]), join)
    }

    fn scale(&self, x: Map, factors: &Table) -> Result<Map> {
        let factors = &factors.values;
        shape::channels("scale", factors.len(), x.dims().channels)?;
        self.operator("scale", x.dims(), |y| elementwise::scale_channels(self.isa, x.values(), factors, y))
    }

    fn causal_conv(&self, x: &Map, p: &CausalConv<Self>, order: ScanOrder, then: Activation) -> Result<Map> {
        self.causally_convolved(x, p, order, then)
    }

    fn insert_token(&self, x: &Map, token: &Table, place: TokenPlace) -> Result<Map> {
        self.with_token(x, token, place)
    }

    fn take_token(&self, x: &Map, place: TokenPlace) -> Result<Map> {
        self.token_of(x, place)
    }

    fn require_grid(&self, x: &Map, grid: [usize; 2]) -> Result<()> {
        shape::grid(grid, [x.dims().height, x.dims().width])
    }

    fn scale_all(&self, x: Map, factor: f32) -> Result<Map> {
        self.begin("scale");
        let scaled = self.changed(x, |x| elementwise::multiply_all(self.isa, factor, x));
        self.end(scaled.dims());
        Ok(scaled)
    }

    fn add_positions(&self, x: Map, table: &Table) -> Result<Map> {
        self.positioned(x, table)
    }

    fn patches(&self, x: Map, order: PatchOrder) -> Result<Map> {
        self.in_patches(&x, order)
    }

    fn drop_path(&self, x: Map, _: DropPath) -> Result<Map> {
        Ok(x)
    }

    fn mean_tokens(&self, x: &Map) -> Result<Map> {
        let dims = x.dims();
        let shape = (dims.batch, dims.tokens(), dims.channels);
        self.operator("mean", Dims { height: 1, width: 1, ..dims }, |y| pool::mean_tokens(x.values(), shape, y))
    }

    fn pad_to_multiple(&self, x: Map, multiple: usize) -> Result<Map> {
        shape::multiple(multiple)?;
        let up = |n: usize| n.div_ceil(multiple) * multiple;
        let (height, width) = (up(x.dims().height), up(x.dims().width));
        Ok(if (height, width) == (x.dims().height, x.dims().width) { x } else { self.padded(&x, height, width) })
    }

    fn conv(&self, x: &Map, p: &Conv, then: Activation) -> Result<Map> {
        self.conv_onto(x, p, then, None)
    }

    fn conv_residual(&self, x: Map, p: &Conv, add: Residual<Self>) -> Result<Map> {
        match add {
            Residual { layer_scale: None, onto: Onto::Input, .. } => self.conv_onto(&x, p, Activation::None, Some(&x)),
            Residual { layer_scale: None, onto: Onto::Map(onto), .. } => {
                self.conv_onto(&x, p, Activation::None, Some(&onto))
            }
            add => composed::conv_residual(self, x, p, add),
        }
    }

    fn gated_input(&self, x: &Map, p: &GatedInput<Self>, tap: &mut dyn Tap<Self>) -> Result<(Map, Map)> {
        self.fused_gated_input(x, p, tap)
    }

    fn gated_output(&self, x: Map, gate: &Map, p: &Linear, add: Residual<Self>) -> Result<Map> {
        self.fused_gated_output(x, gate, p, add)
    }

    fn mlp(&self, x: Map, p: &Mlp<Self>, add: Residual<Self>, tap: &mut dyn Tap<Self>) -> Result<Map> {
        if add.layer_scale.is_some() || composed::taps_inside_mlp(p, tap) {
            return composed::mlp(self, x, p, add, tap);
        }
        shape::channels("layer norm", p.norm.weight.len(), x.dims().channels)?;
        shape::channels("linear", p.fc1.weight.depth(), x.dims().channels)?;
        shape::channels("linear", p.fc2.weight.depth(), p.fc1.weight.columns())?;
        let residual = match &add.onto {
            Onto::Input => &x,
            Onto::Map(onto) => onto,
        };
        let dims = x.dims().with_channels(p.fc2.weight.columns());
        let mlp = mila_kernels::Mlp {
            fc1: &p.fc1.weight,
            bias: p.fc1.bias.as_deref(),
            activation: kernel_activation(p.activation),
            fc2: &p.fc2.weight,
            epilogue: epilogue(dims, p.fc2.bias.as_deref(), Activation::None, Some(residual))?,
        };
        self.operator("mlp", dims, |y| mlp::forward(self.isa, x.values(), p.norm.kernel(), mlp, y))
    }

    fn normed_linear(&self, x: &Map, p: &NormedLinear<Self>, tap: &mut dyn Tap<Self>) -> Result<Map> {
        self.fused_normed_linear(x, p, tap)
    }

    fn linear_residual(&self, x: Map, p: &Linear, add: Residual<Self>) -> Result<Map> {
        self.fused_linear_residual(x, p, add)
    }

    fn gated_conv(&self, x: Map, p: &GatedConv<Self>, add: Residual<Self>, tap: &mut dyn Tap<Self>) -> Result<Map> {
        self.fused_gated_conv(x, p, add, tap)
    }

    fn fused_bottleneck(&self, x: &Map, p: &FusedBottleneck<Self>, tap: &mut dyn Tap<Self>) -> Result<Map> {
        let [Kernel::Full(expand), Kernel::Pointwise(project)] = [&p.expand.kernel, &p.project.kernel] else {
            return composed::fused_bottleneck(self, x, p, tap);
        };
        if tap.wants(&p.names[0]) {
            return composed::fused_bottleneck(self, x, p, tap);
        }
        shape::channels("convolution", p.expand.inputs, x.dims().channels)?;
        shape::channels("convolution", p.project.inputs, p.expand.outputs)?;
        let fitted = self.fitted(x, p.expand.window);
        let x = fitted.as_ref().unwrap_or(x);
        let (input, window) = (x.dims(), p.expand.window);
        let (height, width) = (window.output(input.height), window.output(input.width));
        let dims = Dims::new(input.batch, height, width, p.project.outputs);
        let layers = mila_kernels::Mlp {
            fc1: expand,
            bias: p.expand.bias.as_deref(),
            activation: kernel_activation(p.activation),
            fc2: project,
            epilogue: epilogue(dims, p.project.bias.as_deref(), Activation::None, None)?,
        };
        let (isa, extent, window) = (self.isa, extent(input), kernel_window(window));
        let y = self.operator("fused bottleneck", dims, |y| {
            mlp::forward_windows(isa, x.values(), extent, window, layers, y);
        })?;
        tap.pass(&p.names[1], y)
    }

    fn bottleneck(&self, x: &Map, p: &Bottleneck<Self>, tap: &mut dyn Tap<Self>) -> Result<Map> {
        let [Kernel::Pointwise(expand), Kernel::Depthwise(spatial), Kernel::Pointwise(project)] =
            [&p.expand.kernel, &p.spatial.kernel, &p.project.kernel]
        else {
            return composed::bottleneck(self, x, p, tap);
        };
        let input = x.dims();
        let window = p.spatial.window;
        let fits =
            input.height + 2 * window.padding >= window.kernel && input.width + 2 * window.padding >= window.kernel;
        if !fits || composed::taps_inside_bottleneck(p, tap) {
            return composed::bottleneck(self, x, p, tap);
        }
        shape::channels("convolution", p.expand.inputs, input.channels)?;
        shape::channels("convolution", p.spatial.inputs, p.expand.outputs)?;
        shape::channels("convolution", p.project.inputs, p.spatial.outputs)?;
        let (height, width) = (window.output(input.height), window.output(input.width));
        let layers = mila_kernels::Bottleneck {
            expand: (expand, p.expand.bias.as_deref()),
            window: kernel_window(window),
            spatial: (spatial, p.spatial.bias.as_deref()),
            project: (project, p.project.bias.as_deref()),
            activation: kernel_activation(p.activation),
        };
        let dims = Dims::new(input.batch, height, width, p.project.outputs);
        let y =
            self.operator("bottleneck", dims, |y| bottleneck::forward(self.isa, x.values(), extent(input), layers, y))?;
        tap.pass(&p.names[2], y)
    }
}
