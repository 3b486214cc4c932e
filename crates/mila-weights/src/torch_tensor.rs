//! What a pickle says of a tensor.
//!
//! A tensor is a call of `torch._utils._rebuild_tensor_v2(storage, offset, size, stride, ...)`, perhaps inside a call of
//! `_rebuild_parameter`; the storage is a persistent identifier (torch/_utils.py, torch/serialization.py).

use crate::pickle::{Id, Node, Pickle, quoted};
use crate::{Dtype, limits};

/// A tensor as the pickle describes it; nothing is checked against the storage yet.
#[derive(Debug)]
pub(crate) struct Described<'p> {
    pub(crate) storage: Storage<'p>,
    /// Index of the first element in the storage.
    pub(crate) offset: usize,
    pub(crate) shape: Vec<usize>,
    pub(crate) strides: Vec<usize>,
}

/// A storage as the pickle describes it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Storage<'p> {
    /// Name of its class, such as `FloatStorage`.
    pub(crate) class: &'p str,
    /// Its name in the container.
    pub(crate) key: &'p str,
    /// Declared elements.
    pub(crate) count: u64,
}

impl Storage<'_> {
    /// Bytes of one element, also of types that no tensor is read from: a legacy file must skip them.
    pub(crate) fn element_size(&self) -> Option<usize> {
        match self.class {
            "ComplexDoubleStorage" => Some(16),
            "ComplexFloatStorage" => Some(8),
            "QInt32Storage" => Some(4),
            "QInt8Storage" | "QUInt8Storage" | "QUInt4x2Storage" | "QUInt2x4Storage" | "UntypedStorage" => Some(1),
            class => Dtype::from_storage(class).map(Dtype::size),
        }
    }

    /// Its type, if tensors of it can be read.
    pub(crate) fn dtype(&self) -> Option<Dtype> {
        Dtype::from_storage(self.class)
    }
}

/// What a value of a state dict is.
pub(crate) enum Found<'p> {
    /// A tensor.
    Tensor(Described<'p>),
    /// Something else, in words.
    Other(String),
}

/// How many calls may be around a tensor: parameter, subclass.
const WRAPPERS: usize = 4;

/// Reads the value at `id`.
///
/// # Errors
/// A tensor that is described wrongly: expected and found.
pub(crate) fn describe<'p>(pickle: &'p Pickle<'_>, id: Id) -> Result<Found<'p>, String> {
    let Some((call, args)) = unwrap(pickle, id) else {
        return Ok(Found::Other(pickle.describe(id)));
    };
    match call {
        "_rebuild_tensor" | "_rebuild_tensor_v2" => {}
        // Float8 and unsigned integers, stored untyped.
        _ => return Ok(Found::Other(format!("a tensor of {}", quoted(call)))),
    }
    let &[storage, offset, size, stride, ..] = args else {
        return Err(format!("expected storage, offset, size and stride, found {} arguments", args.len()));
    };
    let storage = match pickle.get(storage) {
        Node::Persistent(identifier) => storage_of(pickle, *identifier)?,
        _ => return Err(format!("expected a storage, found {}", pickle.describe(storage))),
    };
    let offset = index(pickle, offset, "an offset")?;
    let shape = indices(pickle, size, "a size")?;
    let strides = indices(pickle, stride, "a stride")?;
    if shape.len() != strides.len() {
        return Err(format!("expected a stride for each of {} dimensions, found {}", shape.len(), strides.len()));
    }
    Ok(Found::Tensor(Described { storage, offset, shape, strides }))
}

/// Whether the value at `id` is a tensor of any kind.
pub(crate) fn is_tensor(pickle: &Pickle<'_>, id: Id) -> bool {
    unwrap(pickle, id).is_some()
}

/// The rebuilding function of a tensor and its arguments, without what is around it.
fn unwrap<'p>(pickle: &'p Pickle<'_>, mut id: Id) -> Option<(&'p str, &'p [Id])> {
    for _ in 0..WRAPPERS {
        let (class, args, _) = pickle.object(id)?;
        match (class, args) {
            (("torch._utils", "_rebuild_parameter" | "_rebuild_parameter_with_state"), &[data, ..]) => id = data,
            (("torch.nn.parameter", "Parameter" | "Buffer"), &[data, ..]) => id = data,
            // A subclass: function, class, arguments, state.
            (("torch._tensor", "_rebuild_from_type_v2"), &[function, _, args, ..]) => {
                return rebuild(pickle.class(function)?, pickle.sequence(args)?);
            }
            _ => return rebuild(class, args),
        }
    }
    None
}

fn rebuild<'p>(function: (&'p str, &'p str), args: &'p [Id]) -> Option<(&'p str, &'p [Id])> {
    match function {
        ("torch._utils", name) if name.starts_with("_rebuild_") => Some((name, args)),
        _ => None,
    }
}

/// Reads the persistent identifier `("storage", class, key, location, elements[, view])`.
pub(crate) fn storage_of<'p>(pickle: &'p Pickle<'_>, identifier: Id) -> Result<Storage<'p>, String> {
    let found = || format!("expected the identifier of a storage, found {}", pickle.describe(identifier));
    let (kind, class, key, count, view) = match pickle.sequence(identifier) {
        Some(&[kind, class, key, _, count]) => (kind, class, key, count, None),
        Some(&[kind, class, key, _, count, view]) => (kind, class, key, count, Some(view)),
        _ => return Err(found()),
    };
    if pickle.text(kind) != Some("storage") {
        return Err(found());
    }
    let Some(("torch" | "torch.cuda" | "torch.storage", class)) = pickle.class(class) else {
        return Err(format!("expected a class of storages, found {}", pickle.describe(class)));
    };
    let Some(key) = pickle.text(key) else {
        return Err(format!("expected the name of a storage, found {}", pickle.describe(key)));
    };
    if view.is_some_and(|view| !matches!(pickle.get(view), Node::None)) {
        return Err("expected a storage of its own, found a view of another (PyTorch before 0.4)".into());
    }
    let count = index(pickle, count, "a number of elements")? as u64;
    Ok(Storage { class, key, count })
}

/// A non-negative integer.
fn index(pickle: &Pickle<'_>, id: Id, what: &str) -> Result<usize, String> {
    match pickle.int(id) {
        Some(value) => usize::try_from(value).map_err(|_| format!("expected {what}, found {value}")),
        None => Err(format!("expected {what}, found {}", pickle.describe(id))),
    }
}

/// A tuple of non-negative integers; `torch.Size` is one.
fn indices(pickle: &Pickle<'_>, id: Id, what: &str) -> Result<Vec<usize>, String> {
    let members = match pickle.object(id) {
        Some((("torch", "Size"), &[members], _)) => pickle.sequence(members),
        _ => pickle.sequence(id),
    };
    let Some(members) = members else {
        return Err(format!("expected {what}, found {}", pickle.describe(id)));
    };
    if members.len() > limits::RANK {
        return Err(format!("expected at most {} dimensions, found {}", limits::RANK, members.len()));
    }
    members.iter().map(|&member| index(pickle, member, what)).collect()
}
