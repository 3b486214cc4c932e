"""Exports every model of the registry and compares it with `mila run`, on every runtime that is asked for.

Run by `cargo xtask onnx`, which builds what it needs:

    onnx_check.py --mila FILE --weights FILE --recurrences FILE [--openvino] [--peers FILE] [--models NAME,...] [--folder DIR]

`--weights` is the program of crates/mila-graph/examples/formula_weights.rs, `--peers` that of peers/. Each model is exported
once for its own size, once for 97x161, and once with free extents, which then take several sizes, one pixel included. What
`mila export` may refuse stands in REFUSED, with the reason that it has to give; any other refusal is a failure. Every file has
to pass ONNX's checker and its strict shape inference, and every output has to be within 1e-4 of `mila run --executor cpu`, as
max|difference| / std.

Every runtime that is asked for has to load and run every file without a recurrence. A recurrence is a `Scan`. Of a file with
one, the same is asked of ONNX Runtime alone, with fixed and with free extents. The others are tried, and what they do is shown:
OpenVINO 2026.4 does not load such a file, tract takes it with fixed extents, rten 0.27 fails on it.

`--recurrences` is the program of crates/mila-graph/examples/recurrence_cases.rs, which writes recurrences of every kind; they
are compared with the outputs that it writes beside them, on ONNX Runtime.
"""

import argparse
import collections
import dataclasses
import fnmatch
import json
import math
import pathlib
import subprocess
import sys
import tempfile

import numpy as np
import onnx
import onnxruntime

LIMIT = 1e-4
# Batch, height, width.
OTHER = (1, 97, 161)
DYNAMIC = [(2, 64, 96), (1, 97, 161), (3, 31, 45), (1, 1, 1)]
# What may be refused: models, tasks, modes, and what the message says then. Modes are the model's own size, OTHER and free extents.
REFUSED = [
    # Their tokens have no resolutions to take maps of.
    (["vim-*", "mamba-nd-*"], ["pyramid"], ["own", "other", "dynamic"], "a pyramid of"),
    # Their positions are those of one grid.
    (["vim-*", "mamba-nd-*", "ablation-ape", "ablation-ape-32"], ["classify", "pyramid"], ["other", "dynamic"],
     "absolute positions"),
]  # fmt: skip


@dataclasses.dataclass
class Case:
    """A file, the sizes that it takes, and what is said of it."""

    model: str
    task: str
    form: str
    path: pathlib.Path
    sizes: list


def run(*command: object) -> str:
    """Runs a program; its stderr is shown if it fails."""
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(map(str, command))} ended with {done.returncode}\n{done.stderr.strip()}")
    return done.stdout


def refused(failures: list, name: str, task: str, mode: str, error: RuntimeError) -> None:
    """Shows a refusal; one that REFUSED does not list is a failure."""
    message = str(error)
    print(f"{name:12} {task:8} {mode:8} refused: {message.splitlines()[-1]}", flush=True)
    for models, tasks, modes, reason in REFUSED:
        if any(fnmatch.fnmatchcase(name, model) for model in models) and task in tasks and mode in modes:
            if reason in message:
                return
    failures.append(f"{name} {task} {mode}: {message}")


def outputs(path: pathlib.Path) -> list:
    """What a program wrote under the name `path`: one file, or one a level."""
    if path.exists():
        return [np.load(path)]
    levels = sorted(path.parent.glob(f"{path.stem}.?.npy"))
    if not levels:
        raise RuntimeError(f"nothing was written to {path}")
    return [np.load(level) for level in levels]


def forget(path: pathlib.Path) -> None:
    for old in [path, *path.parent.glob(f"{path.stem}.?.npy")]:
        old.unlink(missing_ok=True)


def image(size: tuple) -> np.ndarray:
    """A fixed input of [batch, 3, height, width]."""
    batch, height, width = size
    return np.random.default_rng(7).standard_normal((batch, 3, height, width), dtype=np.float32)


def distance(found: list, wanted: list) -> float:
    """max|difference| / std, the largest of all outputs; infinite if shapes differ or a value is no number."""
    if len(found) != len(wanted):
        return math.inf
    worst = 0.0
    for a, b in zip(found, wanted):
        if a.shape != b.shape or not np.isfinite(a).all():
            return math.inf
        worst = max(worst, float(np.abs(a - b).max()) / max(float(b.std()), 1e-6))
    return worst


def checked(path: pathlib.Path) -> collections.Counter:
    """Checks the file's structure; the number of nodes of each operator."""
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
    known = {info.name for info in [*model.graph.value_info, *model.graph.output]}
    missing = [name for node in model.graph.node for name in node.output if name not in known]
    if missing:
        raise RuntimeError(f"{path.name}: no extents of {missing[:3]}")
    return collections.Counter(node.op_type for node in model.graph.node)


def with_onnxruntime(path: pathlib.Path, _folder: pathlib.Path):
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return lambda x: session.run(None, {"image": x})


def with_openvino(path: pathlib.Path, _folder: pathlib.Path):
    import openvino

    # Without the hint, processors with bf16 would compute in it.
    compiled = openvino.Core().compile_model(str(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return lambda x: [np.array(value) for value in compiled([x]).values()]


def with_peer(program: pathlib.Path, runtime: str):
    def load(path: pathlib.Path, folder: pathlib.Path):
        def infer(x: np.ndarray) -> list:
            given, found = folder / "peer_x.npy", folder / "peer_y.npy"
            forget(found)
            np.save(given, x)
            run(program, runtime, path, given, found)
            return outputs(found)

        return infer

    return load


def cases(options: argparse.Namespace, folder: pathlib.Path, failures: list):
    """Exports one model after the other, and removes what was exported when the next is asked for."""
    registry = json.loads(run(options.mila, "models", "--json"))
    names = [model["name"] for model in registry]
    unknown = set(options.models or names) - set(names)
    if unknown:
        raise RuntimeError(f"expected models of {', '.join(names)}, found {', '.join(sorted(unknown))}")
    for name in options.models or names:
        for task in ["classify", "pyramid"]:
            weights = folder / "weights.safetensors"
            try:
                run(options.weights, name, task, weights)
            except RuntimeError as error:
                refused(failures, name, task, "own", error)
                continue
            height, width = json.loads(run(options.mila, "models", name, "--json"))["input_size"][1:]
            for mode, form, extents, sizes in [
                ("own", "fixed", [], [(1, height, width)]),
                ("other", "fixed", ["--size", "97x161"], [OTHER]),
                ("dynamic", "dynamic", ["--dynamic"], [(1, height, width), *DYNAMIC]),
            ]:
                path = folder / "model.onnx"
                try:
                    run(options.mila, "export", name, path, "--weights", weights, "--task", task, *extents)
                except RuntimeError as error:
                    refused(failures, name, task, mode, error)
                    continue
                yield Case(name, task, form, path, sizes), weights


def recurrences(program: pathlib.Path, folder: pathlib.Path) -> list:
    """Compares recurrences of every kind on ONNX Runtime; what fails."""
    run(program, folder)
    failures, worst, count = [], 0.0, 0
    for path in sorted(folder.glob("*.onnx")):
        checked(path)
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        case = path.name.split(".")[0]
        inputs = {info.name: np.load(folder / f"{case}.{i}.npy") for i, info in enumerate(session.get_inputs())}
        wanted = [np.load(folder / f"{case}.{part}.npy") for part in ["y", "state"]]
        found = distance(session.run(None, inputs), wanted)
        worst, count = max(worst, found), count + 1
        if not found < LIMIT:
            failures.append(f"recurrence {path.name}: {found:.2e} from the reference")
    print(f"{count} files of recurrences, {worst:.2e} at most", flush=True)
    if count == 0:
        failures.append("no file of a recurrence was written")
    return failures


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mila", type=pathlib.Path, required=True)
    parser.add_argument("--weights", type=pathlib.Path, required=True)
    parser.add_argument("--recurrences", type=pathlib.Path, required=True)
    parser.add_argument("--openvino", action="store_true")
    parser.add_argument("--peers", type=pathlib.Path)
    parser.add_argument("--models", type=lambda text: text.split(","))
    parser.add_argument("--folder", type=pathlib.Path, help="where to work; default: a temporary folder")
    options = parser.parse_args()
    runtimes = {"onnxruntime": with_onnxruntime}
    if options.openvino:
        runtimes["openvino"] = with_openvino
    if options.peers:
        runtimes |= {name: with_peer(options.peers, name) for name in ["rten", "tract"]}
    onnxruntime.set_default_logger_severity(3)
    with tempfile.TemporaryDirectory(dir=options.folder) as place:
        failures = recurrences(options.recurrences, pathlib.Path(place))
    with tempfile.TemporaryDirectory(dir=options.folder) as place:
        folder = pathlib.Path(place)
        head = [f"{name:>12}" for name in runtimes]
        print(f"{'model':12} {'task':8} {'form':8} {'batch x size':>14}", *head, " nodes, transposes", flush=True)
        for case, weights in cases(options, folder, failures):
            nodes = checked(case.path)
            loaded, wanted_of = {}, list(runtimes)
            if nodes["Scan"]:
                # The other runtimes lack a scan, or free extents in one.
                wanted_of = ["onnxruntime"]
            for name, load in runtimes.items():
                try:
                    loaded[name] = load(case.path, folder)
                except Exception as error:
                    if name in wanted_of:
                        failures.append(f"{case.model} {case.task} {case.form}: {name} does not load it: {error}")
            for size in case.sizes:
                x, wanted = folder / "x.npy", folder / "y.npy"
                np.save(x, image(size))
                forget(wanted)
                run(options.mila, "run", case.model, "--weights", weights, "--task", case.task, "--executor", "cpu",
                    "--input", x, "--output", wanted)  # fmt: skip
                mine = outputs(wanted)
                cells = []
                what = f"{size[0]} x {size[1]}x{size[2]}"
                place = f"{case.model} {case.task} {case.form} {what}"
                for name in runtimes:
                    if name not in loaded:
                        cells.append(f"{'not loaded':>12}")
                        continue
                    try:
                        values = loaded[name](image(size))
                    except Exception as error:
                        cells.append(f"{'failed':>12}")
                        if name in wanted_of:
                            failures.append(f"{place}: {name}: {error}")
                        continue
                    found = distance(values, mine)
                    cells.append(f"{found:12.2e}")
                    if name in wanted_of and not found < LIMIT:
                        failures.append(f"{place}: {name} is {found:.2e} from mila")
                told = f"{sum(nodes.values()):6d}, {nodes['Transpose']}"
                print(f"{case.model:12} {case.task:8} {case.form:8} {what:>14}", *cells, told, flush=True)
    for failure in failures:
        print(f"FAILED {failure}")
    print("all hold" if not failures else f"{len(failures)} do not hold")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
