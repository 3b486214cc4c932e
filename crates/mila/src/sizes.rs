//! Sizes that the command line asks for.

use mila::graph::{Sizes, Trace};
use mila::model::Resolved;

use crate::failure::Failure;

/// Refuses a `--size` that the model cannot take: absolute positions are made for one grid of tokens.
///
/// # Errors
/// Wrong usage, with the model, what it expects and what was found.
pub(crate) fn check(resolved: &Resolved, size: Option<(usize, usize)>) -> Result<(), Failure> {
    let Some((height, width)) = size else { return Ok(()) };
    let trace = Trace::of(resolved.preset, resolved.task)?;
    check_trace(resolved.preset.name, &trace, Sizes { batch: 1, height, width })
}

/// The same of a model called `name` that is traced already.
///
/// # Errors
/// Those of [`check`].
pub(crate) fn check_trace(name: &str, trace: &Trace, sizes: Sizes) -> Result<(), Failure> {
    let Sizes { height, width, .. } = sizes;
    trace
        .fits(sizes)
        .map_err(|error| Failure::usage(format_args!("--size {height}x{width}: {name} does not take it: {error}")))
}
