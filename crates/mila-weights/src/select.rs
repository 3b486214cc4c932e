//! Which tensors of a PyTorch file are the model's.

use std::collections::HashMap;

use crate::pickle::{Id, Pickle, quoted};
use crate::torch_tensor::is_tensor;
use crate::{Error, Result};

/// Which of two sets of weights to take from a training checkpoint that holds both.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Which {
    /// The trained weights.
    #[default]
    Raw,
    /// Their exponential moving average.
    Ema,
}

/// Where in a file the tensors were.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Origin {
    /// The key whose dictionary was taken; `None` if the tensors are the whole file.
    pub key: Option<&'static str>,
    /// What was taken; it is the average, although the raw weights were asked for, if the file holds nothing else.
    pub which: Which,
    /// Whether the file holds raw weights.
    pub has_raw: bool,
    /// Whether the file holds averaged weights.
    pub has_ema: bool,
}

/// A value under a name that is no readable tensor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Skipped {
    /// Its name.
    pub name: String,
    /// What it is.
    pub found: String,
}

const RAW_KEYS: [&str; 2] = ["model", "state_dict"];
/// MLLA and Mamba write the first, DeiT the second.
const EMA_KEYS: [&str; 2] = ["state_dict_ema", "model_ema"];

/// Whether a tensor is derived or a counter, so that no model asks for it: rotary tables, masks and indices of windows, which
/// depend on the image size, and the batch counts of batch norms.
pub fn is_ignored(name: &str) -> bool {
    ["rope.rotations", "num_batches_tracked", "relative_position_index", "attn_mask"]
        .iter()
        .any(|ignored| name.strip_suffix(ignored).is_some_and(|path| path.is_empty() || path.ends_with('.')))
}

/// The chosen dictionary of a pickle.
pub(crate) struct Selected {
    /// Names and values, in the file's order.
    pub(crate) entries: Vec<(String, Id)>,
    pub(crate) skipped: Vec<Skipped>,
    pub(crate) origin: Origin,
}

/// Finds the model's state dict in a pickle: under `model`, `state_dict`, `state_dict_ema` or `model_ema`, or bare.
///
/// # Errors
/// [`Error::MissingTensors`] if there is none, or if the average is asked for and there is only one set.
pub(crate) fn select(pickle: &Pickle<'_>, which: Which) -> Result<Selected> {
    let root = pickle.root();
    let under = |keys: &[&'static str]| {
        keys.iter().find_map(|&key| {
            let dict = pickle.entry(root, key).filter(|&dict| holds_tensors(pickle, dict))?;
            Some((Some(key), dict))
        })
    };
    let raw = under(&RAW_KEYS).or_else(|| holds_tensors(pickle, root).then_some((None, root)));
    let ema = under(&EMA_KEYS);
    let (has_raw, has_ema) = (raw.is_some(), ema.is_some());
    let (which, taken) = match (which, raw, ema) {
        (Which::Raw, Some(raw), _) => (Which::Raw, raw),
        (_, _, Some(ema)) => (Which::Ema, ema),
        (Which::Ema, Some(_), None) => return Err(no_average()),
        (_, None, None) => {
            let expected = "tensors by name, at the top or under `model`, `state_dict` or `state_dict_ema`".into();
            return Err(Error::MissingTensors { expected, found: outline(pickle) });
        }
    };
    let (key, dict) = taken;
    let (entries, skipped) = named(pickle, dict);
    Ok(Selected { entries, skipped, origin: Origin { key, which, has_raw, has_ema } })
}

/// The error for an average that is not there.
pub(crate) fn no_average() -> Error {
    let expected = format!("averaged weights under `{}` or `{}`", EMA_KEYS[0], EMA_KEYS[1]);
    Error::MissingTensors { expected, found: "one set of weights".into() }
}

/// How many characters of every name are the `module.` of a wrapper for parallel training.
pub(crate) fn wrapper_prefix<'a>(names: impl Iterator<Item = &'a str> + Clone) -> usize {
    const MODULE: &str = "module.";
    let starts = |at: usize| {
        let mut names = names.clone().peekable();
        names.peek().is_some() && names.all(|name| name[at..].starts_with(MODULE))
    };
    let mut prefix = 0;
    while starts(prefix) {
        prefix += MODULE.len();
    }
    prefix
}

fn holds_tensors(pickle: &Pickle<'_>, dict: Id) -> bool {
    let items = pickle.items(dict).unwrap_or_default();
    items.iter().any(|&(key, value)| pickle.text(key).is_some() && is_tensor(pickle, value))
}

/// The dictionary's values under their names, without the wrapper's prefix and the ignored ones.
fn named(pickle: &Pickle<'_>, dict: Id) -> (Vec<(String, Id)>, Vec<Skipped>) {
    let mut entries: Vec<(&str, Id)> = Vec::new();
    let mut index = HashMap::new();
    let mut skipped = Vec::new();
    for (key, value) in pickle.items(dict).unwrap_or_default() {
        let Some(name) = pickle.text(key) else {
            skipped.push(Skipped { name: pickle.describe(key), found: "a value whose key is not text".into() });
            continue;
        };
        // A key that is set again keeps its place and takes the last value, as in Python.
        let at = *index.entry(name).or_insert(entries.len());
        if at == entries.len() {
            entries.push((name, value));
        } else {
            entries[at].1 = value;
        }
    }
    let tensors = entries.iter().filter(|(_, id)| is_tensor(pickle, *id));
    let prefix = wrapper_prefix(tensors.map(|(name, _)| *name));
    let mut named = Vec::new();
    for (name, id) in entries {
        if !is_tensor(pickle, id) {
            skipped.push(Skipped { name: quoted(name), found: pickle.describe(id) });
        } else if !is_ignored(&name[prefix..]) {
            named.push((name[prefix..].to_string(), id));
        }
    }
    (named, skipped)
}

/// What a pickle without a state dict holds instead.
fn outline(pickle: &Pickle<'_>) -> String {
    let root = pickle.root();
    if let Some((_, _, object)) = pickle.object(root)
        && let Some(state) = object.state
        && pickle.entry(state, "_modules").is_some()
    {
        return format!("{}, a whole module (save its `state_dict()` instead)", pickle.describe(root));
    }
    let mut found = pickle.describe(root);
    let items = pickle.items(root).unwrap_or_default();
    for (at, &(key, value)) in items.iter().take(8).enumerate() {
        let name = pickle.text(key).map_or_else(|| pickle.describe(key), |name| format!("`{}`", quoted(name)));
        let separator = if at == 0 { " of" } else { "," };
        found += &format!("{separator} {name} ({})", pickle.describe(value));
    }
    if items.len() > 8 {
        found += &format!(" and {} more", items.len() - 8);
    }
    found
}

#[cfg(test)]
mod tests {
    use super::{is_ignored, wrapper_prefix};

    #[test]
    fn counters_and_tables_are_ignored() {
        assert!(is_ignored("layers.0.blocks.1.attn.rope.rotations"));
        assert!(is_ignored("layers.1.blocks.1.attn.relative_position_index"));
        assert!(is_ignored("layers.0.blocks.1.attn_mask"));
        assert!(is_ignored("num_batches_tracked"));
        assert!(is_ignored("norm.num_batches_tracked"));
        assert!(!is_ignored("norm.not_num_batches_tracked"));
        assert!(!is_ignored("rope.rotations.weight"));
    }

    #[test]
    fn only_a_common_prefix_is_stripped() {
        assert_eq!(wrapper_prefix(["module.a", "module.b"].into_iter()), 7);
        assert_eq!(wrapper_prefix(["module.module.a", "module.module.b"].into_iter()), 14);
        assert_eq!(wrapper_prefix(["module.a", "b"].into_iter()), 0);
        assert_eq!(wrapper_prefix([].into_iter()), 0);
    }
}
