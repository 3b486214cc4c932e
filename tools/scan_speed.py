"""The S6 scan in PyTorch, for `cargo xtask scans`.

    scan_speed.py make FOLDER TOKENS CHANNELS STATES       writes inputs, as `scan_speed.rs` says
    scan_speed.py time FOLDER TOKENS CHANNELS STATES THREADS REPEATS
                                                           compares what is in the folder with PyTorch's results, then prints
                                                           medians in ms of every version as JSON
"""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

#: max|difference| / max|wanted|: the f32 row of docs/numerics.md, and that of gradients.
LIMITS = {"y": 1e-4, "gradient": 1e-3}


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


def scan(one, x, raw, b, c, bias, a_log, d):
    delta, a = F.softplus(raw + bias), -torch.exp(a_log)
    state = torch.zeros_like(a_log)
    outputs = []
    for t in range(x.shape[0]):
        state, y = one(state, x[t], delta[t], b[t], c[t], a)
        outputs.append(y)
    return torch.stack(outputs) + d * x


def reference_of_mamba() -> Callable | None:
    """`selective_scan_ref` of the package mamba-ssm, if it is installed."""
    try:
        from mamba_ssm.ops.selective_scan_interface import selective_scan_ref
    except Exception:  # Without its CUDA extension the import may fail in many ways.
        return None

    def run(x, raw, b, c, bias, a_log, d):
        columns = [value.T[None].contiguous() for value in (x, raw, b, c)]
        x, raw, b, c = columns
        return selective_scan_ref(x, raw, -torch.exp(a_log), b, c, d, None, bias, True)[0].T

    return run


def main() -> None:
    verb, folder, *numbers = sys.argv[1:]
    folder, (tokens, channels, states, *rest) = Path(folder), map(int, numbers)
    if verb == "make":
        make(folder, tokens, channels, states)
        return
    threads, repeats = rest
    torch.set_num_threads(threads)
    read = lambda name, *shape: torch.from_numpy(np.fromfile(folder / name, np.float32).reshape(shape))  # noqa: E731
    width = 2 * channels + 2 * states
    parts = read("map", tokens, width).split([channels, channels, states, states], dim=1)
    leaves = [part.clone() for part in parts]
    leaves += [read("bias", channels), read("a_log", channels, states), read("d", channels)]
    for leaf in leaves:
        leaf.requires_grad_()
    dy = read("dy", tokens, channels)

    versions = {
        f"PyTorch {torch.__version__}, loop": lambda *inputs: scan(step, *inputs),
        f"PyTorch {torch.__version__}, loop over a compiled step": lambda *inputs: scan(torch.compile(step), *inputs),
    }
    if (run := reference_of_mamba()) is not None:
        versions["mamba-ssm, selective_scan_ref"] = run

    wanted = {"y": read("y", tokens, channels)}
    of_map = read("dmap", tokens, width).split([channels, channels, states, states], dim=1)
    found = [*of_map, read("dbias", channels), read("da_log", channels, states), read("dd", channels)]
    times = {}
    for name, run in versions.items():
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
