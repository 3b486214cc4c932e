"""Tiny `.pth` files as `torch.save` writes them, and `expected.safetensors` with what a reader must find in them.

A key of the expected file is `FILE/NAME` for the raw weights and `FILE#ema/NAME` for the averaged ones; values are
contiguous f32, whatever the stored type. Every tensor of the dictionary is listed, `num_batches_tracked` included.
"""

import contextlib
import io
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor, nn
from yacs.config import CfgNode

from values import parameter, symmetric

State = dict[str, Tensor]


class Tiny(nn.Module):
    """A convolution with batch norm and a linear layer, under names of the released models."""

    def __init__(self) -> None:
        super().__init__()
        conv1 = nn.ModuleDict({"conv": nn.Conv2d(3, 2, 3, bias=False), "norm": nn.BatchNorm2d(2)})
        self.patch_embed = nn.ModuleDict({"conv1": conv1})
        self.head = nn.Linear(4, 3)


def tiny(prefix: str) -> Tiny:
    """The model with values by the formula of names that begin with `prefix`; three batches tracked."""
    model = Tiny()
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            counter = name.endswith("num_batches_tracked")
            tensor.copy_(torch.tensor(3) if counter else parameter(prefix + name, tuple(tensor.shape)))
    return model


def training_checkpoint() -> dict:
    """The layout of the released training code: raw and averaged weights, optimiser, schedule, configuration."""
    model, average = tiny("raw."), tiny("ema.")
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.05)
    for name, p in model.named_parameters():
        p.grad = parameter("grad." + name, tuple(p.shape))
    optimizer.step()
    config = CfgNode({"MODEL": {"NAME": "tiny", "EMBED_DIM": 4, "DEPTHS": [1, 2]}, "TRAIN": {"LR": 1e-3, "AMP": False}})
    config.freeze()
    return {
        "model": model.state_dict(),
        "state_dict_ema": OrderedDict((f"module.{name}", t) for name, t in average.state_dict().items()),
        "optimizer": optimizer.state_dict(),
        "lr_scheduler": {"base_values": [1e-3], "t_in_epochs": False, "last": None},
        "max_accuracy": 81.2,
        "epoch": 3,
        "config": config,
    }


def dtypes() -> State:
    x = symmetric("dtypes", (3, 5), 2.0)
    return {
        "f32": x,
        "f64": x.double() / 3,
        "f16": x.half(),
        "bf16": x.bfloat16(),
        "f16.edges": torch.tensor([-0.0, 2.0**-24, 2.0**-14, 65504.0], dtype=torch.float16),
        "bf16.edges": torch.tensor([-0.0, 2.0**-133, 2.0**-126, 3.0e38], dtype=torch.bfloat16),
        "int64": torch.tensor(-7, dtype=torch.int64),
    }


def layouts() -> State:
    """Tensors that are views: transposed, sliced with an offset, sharing one storage, empty, scalar."""
    base = symmetric("layouts", (4, 6), 2.0)
    shared = symmetric("shared", (10,), 2.0)
    return {
        "contiguous": base,
        "transposed": base.t(),
        "sliced": base[1:, 2:5],
        "strided": base[::2, ::3],
        "shared.first": shared[:6].view(2, 3),
        "shared.second": shared[4:],
        "permuted": symmetric("permuted", (2, 3, 4), 2.0).permute(2, 0, 1),
        "expanded": symmetric("expanded", (1, 3), 2.0).expand(2, 3),
        "empty": torch.zeros(0, 4),
        "scalar": torch.tensor(0.25),
    }


def parameters() -> "OrderedDict[str, Tensor]":
    weight, bias = parameter("parameters.weight", (3, 4)), parameter("parameters.bias", (3,))
    return OrderedDict(weight=nn.Parameter(weight), bias=nn.Parameter(bias, requires_grad=False))


@contextlib.contextmanager
def storages_numbered_in_order() -> Iterator[None]:
    """The legacy container names a storage by its address; within this scope by its order of appearance instead."""
    address, order = torch._C.StorageBase._cdata, {}

    def number(storage: torch.UntypedStorage) -> int:
        return order.setdefault(address.__get__(storage), 1000 + len(order))

    torch.UntypedStorage._cdata = property(number)
    try:
        yield
    finally:
        del torch.UntypedStorage._cdata


def save_checkpoint(obj: object, path: Path, legacy: bool, protocol: int) -> None:
    """The root folder inside a zip is the file's stem when saved to a path and `archive` from a buffer; both occur."""
    target = path if protocol == 2 else io.BytesIO()
    with storages_numbered_in_order():
        torch.save(obj, target, pickle_protocol=protocol, _use_new_zipfile_serialization=not legacy)
    if isinstance(target, io.BytesIO):
        path.write_bytes(target.getvalue())


def write_all(folder: Path) -> None:
    state, training = tiny("bare.").state_dict(), training_checkpoint()
    averaged = tiny("ema.").state_dict()
    # (file stem, object, raw weights that a reader must find)
    objects = [
        ("bare", state, state),
        ("model", {"model": state}, state),
        ("state_dict", {"state_dict": state, "epoch": 3}, state),
        ("training", training, training["model"]),
        ("dtypes", dtypes(), dtypes()),
        ("layouts", layouts(), layouts()),
        ("parameters", parameters(), parameters()),
    ]
    files = [(f"{stem}_{box}", obj, raw, box == "legacy", 2) for stem, obj, raw in objects for box in ("zip", "legacy")]
    files += [(f"protocol{n}_zip", {"model": state}, state, False, n) for n in (3, 4, 5)]
    files += [("module_prefix_zip", {f"module.{k}": v for k, v in state.items()}, state, False, 2)]

    folder.mkdir(parents=True, exist_ok=True)
    expected = {}
    for stem, obj, raw, legacy, protocol in files:
        path = folder / f"{stem}.pth"
        save_checkpoint(obj, path, legacy, protocol)
        size = path.stat().st_size
        assert size <= 20_000, f"{stem}: expected at most 20000 bytes, found {size}"
        expected |= {f"{stem}.pth/{name}": tensor for name, tensor in raw.items()}
        if isinstance(obj, dict) and "state_dict_ema" in obj:
            expected |= {f"{stem}.pth#ema/{name}": tensor for name, tensor in averaged.items()}
    expected = {key: t.detach().to(torch.float32).contiguous().clone() for key, t in expected.items()}
    (folder / "expected.safetensors").write_bytes(save(expected))
