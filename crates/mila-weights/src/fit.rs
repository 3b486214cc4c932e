//! Whether a checkpoint's tensors are those that a model wants.

use std::collections::HashSet;
use std::fmt;

use mila_ops::Wanted;

use crate::Checkpoint;

/// Which differences between a model and a checkpoint are meant.
#[derive(Clone, Copy)]
pub struct Allow<'a> {
    /// Wanted names that may be missing, or of another shape or type: they are initialised instead.
    pub fresh: &'a dyn Fn(&str) -> bool,
    /// Names of the checkpoint that the model need not want.
    pub unused: &'a dyn Fn(&str) -> bool,
}

impl Allow<'static> {
    /// No difference.
    pub const NOTHING: Self = Self { fresh: &|_| false, unused: &|_| false };
}

/// The differences that were found and allowed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Allowed {
    /// Wanted names that the checkpoint does not have as wanted: to be initialised.
    pub fresh: Vec<String>,
    /// Names of the checkpoint that are left alone.
    pub unused: Vec<String>,
}

/// Every difference between a model and a checkpoint, at once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mismatch {
    /// Wanted, not in the checkpoint: name and expected shape.
    pub missing: Vec<(String, Vec<usize>)>,
    /// In the checkpoint, not wanted: name and shape.
    pub unexpected: Vec<(String, Vec<usize>)>,
    /// Name, expected shape, found shape.
    pub wrong_shape: Vec<(String, Vec<usize>, Vec<usize>)>,
    /// Wanted, but no tensor of floats: name and what was found.
    pub unreadable: Vec<(String, String)>,
}

impl Mismatch {
    fn is_empty(&self) -> bool {
        self.missing.is_empty()
            && self.unexpected.is_empty()
            && self.wrong_shape.is_empty()
            && self.unreadable.is_empty()
    }
}

impl std::error::Error for Mismatch {}

/// How many lines of a group are listed.
const LISTED: usize = 40;

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the checkpoint does not fit the model")?;
        let name = |name: &str| name.escape_debug().to_string();
        group(f, "missing from the checkpoint", &self.missing, |(n, shape)| format!("{} {shape:?}", name(n)))?;
        group(f, "of the wrong shape", &self.wrong_shape, |(n, expected, found)| {
            format!("{}: expected {expected:?}, found {found:?}", name(n))
        })?;
        group(f, "not readable as floats", &self.unreadable, |(n, found)| {
            format!("{}: expected a float tensor, found {found}", name(n))
        })?;
        group(f, "not part of the model", &self.unexpected, |(n, shape)| format!("{} {shape:?}", name(n)))
    }
}

/// Whether a tensor of shape `found` has the values of one of shape `wanted`: a linear map may be stored as the 1x1 convolution
/// that it is, as some checkpoints of VMamba have it.
pub(crate) fn is_shape(found: &[usize], wanted: &[usize]) -> bool {
    found.strip_prefix(wanted).is_some_and(|rest| rest.is_empty() || (wanted.len() == 2 && rest == [1, 1]))
}

fn group<T>(f: &mut fmt::Formatter<'_>, title: &str, all: &[T], line: impl Fn(&T) -> String) -> fmt::Result {
    if all.is_empty() {
        return Ok(());
    }
    write!(f, "\n  {} {title}:", all.len())?;
    for one in all.iter().take(LISTED) {
        write!(f, "\n    {}", line(one))?;
    }
    if all.len() > LISTED {
        write!(f, "\n    and {} more", all.len() - LISTED)?;
    }
    Ok(())
}

impl Checkpoint {
    /// Compares with what a model wants, names and shapes; the values are not read.
    ///
    /// # Errors
    /// All differences that are not allowed.
    pub fn check(&self, manifest: &[Wanted], allow: &Allow<'_>) -> Result<Allowed, Mismatch> {
        let mut mismatch = Mismatch::default();
        let mut allowed = Allowed::default();
        for wanted in manifest {
            let name = &wanted.name;
            let tensor = self.get(name);
            let fits = tensor.is_some_and(|t| is_shape(t.shape(), &wanted.shape) && t.dtype().is_float());
            if fits {
                continue;
            }
            if (allow.fresh)(name) {
                allowed.fresh.push(name.clone());
                continue;
            }
            match tensor {
                Some(tensor) if !is_shape(tensor.shape(), &wanted.shape) => {
                    mismatch.wrong_shape.push((name.clone(), wanted.shape.clone(), tensor.shape().to_vec()));
                }
                Some(tensor) => mismatch.unreadable.push((name.clone(), format!("{} values", tensor.dtype()))),
                None => match self.skipped().iter().find(|skipped| skipped.name == *name) {
                    Some(skipped) => mismatch.unreadable.push((name.clone(), skipped.found.clone())),
                    None => mismatch.missing.push((name.clone(), wanted.shape.clone())),
                },
            }
        }
        let wanted: HashSet<&str> = manifest.iter().map(|wanted| wanted.name.as_str()).collect();
        for (name, tensor) in self.iter().filter(|(name, _)| !wanted.contains(name)) {
            if (allow.unused)(name) {
                allowed.unused.push(name.into());
            } else {
                mismatch.unexpected.push((name.into(), tensor.shape().to_vec()));
            }
        }
        if mismatch.is_empty() { Ok(allowed) } else { Err(mismatch) }
    }
}
