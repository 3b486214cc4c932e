"""Parameter and input values that are a function of (name, index) only, so that no golden stores a weight.

Element ``i`` (row-major) of the tensor called ``name`` starts from the i-th output of SplitMix64:

    seed   = FNV-1a-64 of the UTF-8 bytes of name   (offset basis 0xcbf29ce484222325, prime 0x100000001b3)
    state  = seed + (i + 1) * 0x9e3779b97f4a7c15    (mod 2^64)
    z      = (state ^ state >> 30) * 0xbf58476d1ce4e5b9
    z      = (z ^ z >> 27) * 0x94d049bb133111eb
    output = z ^ z >> 31
    u      = (output >> 40) / 2^24                  in [0, 1), exact in f32
    r      = 2 * u - 1                              in [-1, 1), exact in f32

and is then, in f32, each operation rounded once in the order written (no fused multiply-add):

    *.running_var               0.5 + u
    *.running_mean              0.2 * r
    *.bias                      0.2 * r
    *.gamma                     0.5 + (0.3 * r)
    *.ape                       r
    *.relative_position_bias_table, */table     1.5 * r
    1-D *.weight (norms)        1.0 + (0.3 * r)
    *.weight with >= 2 dims     r * sqrt(3.0 / fan_in), fan_in = product of shape[1:]
    *_proj(s)_weight, 3 dims    r * sqrt(3.0 / fan_in), fan_in = shape[2]: the linear maps of several directions
    *_projs_bias                0.2 * r
    A_log, A_logs, A_b_log      0.5 * r
    D, Ds, D_b                  1.0 + (0.3 * r)
    cls_token, pos_embed        0.5 * r
    input                       2.0 * r

Decimal constants are the nearest f32.
"""

import math

import numpy as np
import torch

f32 = np.float32


def fnv1a(name: str) -> int:
    """FNV-1a-64 of the UTF-8 bytes of `name`."""
    digest = 0xCBF29CE484222325
    for byte in name.encode():
        digest = (digest ^ byte) * 0x100000001B3 % 2**64
    return digest


def splitmix64(seed: int, count: int) -> np.ndarray:
    """The first `count` outputs of SplitMix64, as u64."""
    with np.errstate(over="ignore"):
        z = np.uint64(seed) + np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))


def unit(name: str, count: int) -> np.ndarray:
    """`count` values u in [0, 1), f32."""
    return (splitmix64(fnv1a(name), count) >> np.uint64(40)).astype(f32) / f32(2**24)


def symmetric(name: str, shape: tuple[int, ...], scale: float = 1.0) -> torch.Tensor:
    """scale * r with the given shape, f32; inputs are symmetric("input", shape, 2.0)."""
    r = f32(2) * unit(name, math.prod(shape)) - f32(1)
    return torch.from_numpy((f32(scale) * r).reshape(shape))


def parameter(name: str, shape: tuple[int, ...]) -> torch.Tensor:
    """The f32 value of the parameter or buffer `name`; the last part of the name and the rank choose the row."""
    u = unit(name, math.prod(shape))
    r = f32(2) * u - f32(1)
    kind = name.rsplit(".", 1)[-1].rsplit("/", 1)[-1]
    if kind == "running_var":
        value = f32(0.5) + u
    elif kind in ("running_mean", "bias", "dt_projs_bias"):
        value = f32(0.2) * r
    elif kind in ("A_log", "A_logs", "A_b_log", "cls_token", "pos_embed"):
        value = f32(0.5) * r
    elif kind in ("D", "Ds", "D_b"):
        value = f32(1) + f32(0.3) * r
    elif kind in ("x_proj_weight", "dt_projs_weight"):
        value = r * np.sqrt(f32(3) / f32(shape[-1]))
    elif kind == "gamma":
        value = f32(0.5) + f32(0.3) * r
    elif kind == "ape":
        value = r
    elif kind in ("relative_position_bias_table", "table"):
        value = f32(1.5) * r
    elif kind == "weight" and len(shape) == 1:
        value = f32(1) + f32(0.3) * r
    elif kind == "weight":
        value = r * np.sqrt(f32(3) / f32(math.prod(shape[1:])))
    else:
        raise ValueError(f"no value rule for {name} {tuple(shape)}")
    assert value.dtype == f32, f"{name}: expected f32, found {value.dtype}"
    return torch.from_numpy(value.reshape(shape))


def fill(model: torch.nn.Module) -> torch.nn.Module:
    """Give every parameter and buffer of `model` its value, then widen the model to f64."""
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if not name.endswith("num_batches_tracked"):
                tensor.copy_(parameter(name, tuple(tensor.shape)))
    return model.double()
