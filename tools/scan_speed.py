"""The S6 scan in PyTorch, for `cargo xtask scans`.

    scan_speed.py make FOLDER TOKENS CHANNELS STATES       writes inputs, as `scan_speed.rs` says
    scan_speed.py time FOLDER TOKENS CHANNELS STATES THREADS REPEATS OF_ALL_GATES
                                                           compares what is in the folder with PyTorch's results, then prints
                                                           medians in ms of every version as JSON; OF_ALL_GATES are the repeats
                                                           of the versions that hold all gates, 0 to leave them out

The reference function of mamba-ssm is timed where that package is installed. It needs no GPU for that, and installs without one:

    MAMBA_FORCE_BUILD=TRUE MAMBA_SKIP_CUDA_BUILD=TRUE pip install --no-deps --no-build-isolation wheel einops mamba-ssm
"""

import importlib.util
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
import torch.nn.functional as F

#: max|difference| / max|wanted|: the f32 row of docs/numerics.md, and that of gradients.
LIMITS = {"y": 1e-4, "gradient": 1e-3}
#: Tokens of a compiled piece. With one, the way into it takes longer than what it computes; with many, compiling it takes minutes.
PIECE = 16


def make(folder: Path, tokens: int, channels: int, states: int) -> None:
    random = np.random.default_rng(0)
    normal = lambda *shape: random.standard_normal(shape).astype(np.float32)  # noqa: E731
    values = {
        "map": normal(tokens, 2 * channels + 2 * states),
        "bias": random.uniform(-5, -2, channels).astype(np.float32),
        "d": np.ones(channels, np.float32),
        "a_log": np.log(np.arange(1, states + 1, dtype=np.float32))[None].repeat(channels, 0).copy(),
        "dy": normal(tokens, channels),
    }
    for name, value in values.items():
        value.tofile(folder / name)


def step(state, x, delta, b, c, a):
    """One token: `state` and `a` [channels, states], `x` and `delta` [channels], `b` and `c` [states]."""
    state = torch.exp(delta[:, None] * a) * state + (delta * x)[:, None] * b
    return state, state @ c


def piece(state, x, delta, b, c, a):
    """Some tokens: the state after them, and `[tokens, channels]`."""
    outputs = []
    for t in range(x.shape[0]):
        state, y = step(state, x[t], delta[t], b[t], c[t], a)
        outputs.append(y)
    return state, torch.stack(outputs)


def scan(run, length, x, raw, b, c, bias, a_log, d):
    """All tokens, `length` at a time."""
    delta, a = F.softplus(raw + bias), -torch.exp(a_log)
    state = torch.zeros_like(a_log)
    outputs = []
    for first in range(0, x.shape[0], length):
        state, y = run(state, *(map[first : first + length] for map in (x, delta, b, c)), a)
        outputs.append(y)
    return torch.cat(outputs) + d * x


def reference_of_mamba() -> Callable | None:
    """`selective_scan_ref` of the package mamba-ssm, if it is installed."""
    package = importlib.util.find_spec("mamba_ssm")
    if package is None:
        return None
    # The package imports all of its models, and its file of the scan the CUDA extension, which the reference does not need.
    shell = ModuleType("mamba_ssm")
    shell.__path__ = list(package.submodule_search_locations)
    sys.modules.update(mamba_ssm=shell)
    sys.modules.setdefault("selective_scan_cuda", ModuleType("selective_scan_cuda"))
    from mamba_ssm.ops.selective_scan_interface import selective_scan_ref

    def run(x, raw, b, c, bias, a_log, d):
        x, raw, b, c = (value.T[None].contiguous() for value in (x, raw, b, c))
        return selective_scan_ref(x, raw, -torch.exp(a_log), b, c, d, None, bias, True)[0].T

    return run


def main() -> None:
    verb, folder, *numbers = sys.argv[1:]
    folder, (tokens, channels, states, *rest) = Path(folder), map(int, numbers)
    if verb == "make":
        make(folder, tokens, channels, states)
        return
    threads, repeats, of_all_gates = rest
    torch.set_num_threads(threads)
    read = lambda name, *shape: torch.from_numpy(np.fromfile(folder / name, np.float32).reshape(shape))  # noqa: E731
    width = 2 * channels + 2 * states
    parts = read("map", tokens, width).split([channels, channels, states, states], dim=1)
    leaves = [part.clone() for part in parts]
    leaves += [read("bias", channels), read("a_log", channels, states), read("d", channels)]
    for leaf in leaves:
        leaf.requires_grad_()
    dy = read("dy", tokens, channels)

    torch_is = f"PyTorch {torch.__version__}"
    compiled = torch.compile(piece, dynamic=False)
    versions = {
        f"{torch_is}, loop": (repeats, lambda *inputs: scan(piece, tokens, *inputs)),
        f"{torch_is}, loop compiled {PIECE} tokens at a time": (repeats, lambda *inputs: scan(compiled, PIECE, *inputs)),
    }
    if of_all_gates and (run := reference_of_mamba()) is not None:
        versions["mamba-ssm, selective_scan_ref"] = (of_all_gates, run)

    wanted = {"y": read("y", tokens, channels)}
    of_map = read("dmap", tokens, width).split([channels, channels, states, states], dim=1)
    found = [*of_map, read("dbias", channels), read("da_log", channels, states), read("dd", channels)]
    times = {}
    for name, (repeats, run) in versions.items():
        with torch.no_grad():
            y = run(*leaves)
        check(name, "y", wanted["y"], y)
        gradients = torch.autograd.grad(run(*leaves), leaves, dy)
        for ours, theirs in zip(found, gradients):
            check(name, "gradient", ours, theirs)

        forward, both = [], []
        for _ in range(repeats):
            start = time.perf_counter()
            with torch.no_grad():
                run(*leaves)
            forward.append(time.perf_counter() - start)
            y = run(*leaves)
            start = time.perf_counter()
            torch.autograd.grad(y, leaves, dy)
            both.append(time.perf_counter() - start)
        median = lambda values: 1e3 * sorted(values)[len(values) // 2]  # noqa: E731
        times[name] = {"forward_ms": median(forward), "backward_ms": median(both)}
    print(json.dumps(times))


def check(name: str, what: str, ours: torch.Tensor, theirs: torch.Tensor) -> None:
    distance = (ours - theirs).abs().max().item() / max(theirs.abs().max().item(), 1e-30)
    if not distance < LIMITS[what]:
        sys.exit(f"{name} and ours differ by {distance:.1e} in a {what} of {list(theirs.shape)}")


main()
