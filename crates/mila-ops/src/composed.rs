//! The composite operators as compositions of smaller ones.
//!
//! These are the default bodies of [`Executor`]'s composite methods, and free functions because an executor that
//! overrides one comes back to it when it declines: for a tap on what lives inside, or an unusual option.

use crate::{
    Activation, Bottleneck, Error, Executor, FusedBottleneck, GatedConv, GatedInput, Mlp, NormedLinear, Onto,
    RecurrenceOn, Residual, Result, Tap,
};

/// Convolution, batch norm if the convolution has one, activation.
///
/// # Errors
/// Those of the operators.
pub fn conv<E: Executor>(e: &E, x: &E::Map, p: &E::Conv, then: Activation) -> Result<E::Map> {
    let y = e.convolve(x, p)?;
    let y = match e.norm_of(p) {
        Some(norm) => e.batch_norm(&y, norm)?,
        None => y,
    };
    e.activate(y, then)
}

/// `onto + conv(x)`.
///
/// # Errors
/// Those of the operators.
pub fn conv_residual<E: Executor>(e: &E, x: E::Map, p: &E::Conv, add: Residual<E>) -> Result<E::Map> {
    let branch = e.conv(&x, p, Activation::None)?;
    join(e, x, branch, add)
}

/// `(silu(gate(norm(x))), inner(norm(x)))`.
///
/// # Errors
/// Those of the operators and of the tap.
pub fn gated_input<E: Executor>(
    e: &E,
    x: &E::Map,
    p: &GatedInput<E>,
    tap: &mut dyn Tap<E>,
) -> Result<(E::Map, E::Map)> {
    let normed = tap.pass(&p.norm_name, e.layer_norm(x, &p.norm)?)?;
    let gate = e.linear(&normed, &p.gate, Activation::Silu)?;
    let inner = e.linear(&normed, &p.inner, Activation::None)?;
    Ok((gate, inner))
}

/// `onto + linear(x * gate)`.
///
/// # Errors
/// Those of the operators.
pub fn gated_output<E: Executor>(e: &E, x: E::Map, gate: &E::Map, p: &E::Linear, add: Residual<E>) -> Result<E::Map> {
    let gated = e.mul(x.clone(), gate)?;
    let branch = e.linear(&gated, p, Activation::None)?;
    join(e, x, branch, add)
}

/// `onto + fc2(activation(fc1(norm(x))))`.
///
/// # Errors
/// Those of the operators and of the tap.
pub fn mlp<E: Executor>(e: &E, x: E::Map, p: &Mlp<E>, add: Residual<E>, tap: &mut dyn Tap<E>) -> Result<E::Map> {
    let normed = tap.pass(&p.norm_name, e.layer_norm(&x, &p.norm)?)?;
    let hidden = tap.pass(&p.hidden_name, e.linear(&normed, &p.fc1, p.activation)?)?;
    let branch = tap.pass(&p.name, e.linear(&hidden, &p.fc2, Activation::None)?)?;
    join(e, x, branch, add)
}

/// `linear(norm(x))`.
///
/// # Errors
/// Those of the operators and of the tap.
pub fn normed_linear<E: Executor>(e: &E, x: &E::Map, p: &NormedLinear<E>, tap: &mut dyn Tap<E>) -> Result<E::Map> {
    let normed = tap.pass(&p.norm_name, e.layer_norm(x, &p.norm)?)?;
    e.linear(&normed, &p.linear, Activation::None)
}

/// `onto + linear(x)`.
///
/// # Errors
/// Those of the operators.
pub fn linear_residual<E: Executor>(e: &E, x: E::Map, p: &E::Linear, add: Residual<E>) -> Result<E::Map> {
    let branch = e.linear(&x, p, Activation::None)?;
    join(e, x, branch, add)
}

/// `onto + fc2(activation(g) * [i | conv(c)])` with `[g | i | c] = fc1(norm(x))`.
///
/// # Errors
/// Those of the operators and of the tap.
pub fn gated_conv<E: Executor>(
    e: &E,
    x: E::Map,
    p: &GatedConv<E>,
    add: Residual<E>,
    tap: &mut dyn Tap<E>,
) -> Result<E::Map> {
    let all = e.normed_linear(&x, &p.input, tap)?;
    let all = tap.pass(&p.input_name, all)?;
    let convolved = 2 * p.hidden - p.convolved;
    let gate = e.activate(e.channels(&all, 0..p.hidden)?, p.activation)?;
    let kept = e.channels(&all, p.hidden..convolved)?;
    let local = e.conv(&e.channels(&all, convolved..2 * p.hidden)?, &p.conv, Activation::None)?;
    let local = tap.pass(&p.conv_name, local)?;
    drop(all);
    let gated = e.mul(gate, &e.concat(&kept, &local)?)?;
    let branch = tap.pass(&p.name, e.linear(&gated, &p.fc2, Activation::None)?)?;
    join(e, x, branch, add)
}

/// `project(activation(spatial(activation(expand(x)))))`.
///
/// # Errors
/// Those of the operators and of the tap.
pub fn bottleneck<E: Executor>(e: &E, x: &E::Map, p: &Bottleneck<E>, tap: &mut dyn Tap<E>) -> Result<E::Map> {
    let [expand, spatial, project] = &p.names;
    let hidden = tap.pass(expand, e.conv(x, &p.expand, p.activation)?)?;
    let hidden = tap.pass(spatial, e.conv(&hidden, &p.spatial, p.activation)?)?;
    tap.pass(project, e.conv(&hidden, &p.project, Activation::None)?)
}

/// `project(activation(expand(x)))`.
///
/// # Errors
/// Those of the operators and of the tap.
pub fn fused_bottleneck<E: Executor>(
    e: &E,
    x: &E::Map,
    p: &FusedBottleneck<E>,
    tap: &mut dyn Tap<E>,
) -> Result<E::Map> {
    let [expand, project] = &p.names;
    let hidden = tap.pass(expand, e.conv(x, &p.expand, p.activation)?)?;
    tap.pass(project, e.conv(&hidden, &p.project, Activation::None)?)
}

/// The sum of several recurrences, added in their order.
///
/// # Errors
/// Those of the operators; `Shape` if there is none.
pub fn recurrences<E: Executor>(e: &E, all: &[RecurrenceOn<'_, E>]) -> Result<E::Map> {
    let [first, others @ ..] = all else {
        return Err(Error::shape("recurrences", "at least one recurrence", 0));
    };
    others.iter().try_fold(e.recurrence(first)?.0, |sum, next| e.add(sum, &e.recurrence(next)?.0))
}

/// `onto + drop_path(layer_scale * branch)`, where `x` is the composite's input.
///
/// # Errors
/// Those of the operators.
pub fn join<E: Executor>(e: &E, x: E::Map, branch: E::Map, add: Residual<E>) -> Result<E::Map> {
    let branch = match add.layer_scale {
        Some(factors) => e.scale(branch, factors)?,
        None => branch,
    };
    let branch = match add.drop_path {
        Some(drop) => e.drop_path(branch, drop)?,
        None => branch,
    };
    match add.onto {
        Onto::Input => e.add(x, &branch),
        Onto::Map(map) => e.add(map, &branch),
    }
}

/// Whether a tap wants anything that lives inside `mlp`.
pub fn taps_inside_mlp<E: Executor>(p: &Mlp<E>, tap: &dyn Tap<E>) -> bool {
    [&p.norm_name, &p.hidden_name, &p.name].iter().any(|name| tap.wants(name))
}

/// Whether a tap wants one of the two hidden maps of a `bottleneck`.
pub fn taps_inside_bottleneck<E: Executor>(p: &Bottleneck<E>, tap: &dyn Tap<E>) -> bool {
    p.names[..2].iter().any(|name| tap.wants(name))
}

/// Whether a tap wants anything that lives inside `gated_conv`.
pub fn taps_inside_gated_conv<E: Executor>(p: &GatedConv<E>, tap: &dyn Tap<E>) -> bool {
    [&p.input.norm_name, &p.input_name, &p.conv_name, &p.name].iter().any(|name| tap.wants(name))
}
