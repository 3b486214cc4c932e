"""One peer of `cargo xtask peers`: loads a model, writes what it gives for an input, then times passes on request.

    peers.py prepare --model NAME --weights FILE --extents BATCH HEIGHT WIDTH --input X.npy --onnx OUT.onnx
    peers.py torch|torch-compile --model NAME --weights FILE --input X.npy --output Y.npy --threads N
    peers.py onnxruntime|openvino|openvino-bf16 --onnx FILE --input X.npy --output Y.npy --threads N

`prepare` writes a fixed input and PyTorch's own export of `tools/golden/mila.py`. A peer writes its output for the input and
then the line {"version": ...}, or {"skipped": why}. From then on each line `WARM-UP PASSES` on stdin is answered by one line
with the milliseconds of each pass, so that the caller can let several peers take turns. The end of stdin ends it.
"""

import argparse
import json
import os
import pathlib
import shutil
import sys
import time
import warnings
from collections.abc import Callable

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).parent / "golden"))
# Returns the logits; what it needs is loaded and the input in its own type.
Pass = Callable[[], np.ndarray]


class Skipped(Exception):
    """A peer that this machine cannot run, though nothing is wrong."""


def torch_model(options: argparse.Namespace):
    """The oracle with the weights, without the stages' outputs that it returns beside the logits."""
    import mila
    import safetensors.torch
    import torch

    class Logits(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.model = mila.Classifier({"mila-t": mila.T, "mila-s": mila.S, "mila-b": mila.B}[options.model])

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return self.model(image)[0]

    logits = Logits().eval()
    values = safetensors.torch.load_file(options.weights)
    missing, unexpected = logits.model.load_state_dict(values, strict=False)
    missing = [name for name in missing if not name.endswith("num_batches_tracked")]
    if missing or unexpected:
        raise ValueError(f"{options.weights}: missing {missing[:3]}, unexpected {unexpected[:3]}")
    return logits


def prepare(options: argparse.Namespace) -> None:
    import torch

    batch, height, width = options.extents
    image = np.random.default_rng(7).standard_normal((batch, 3, height, width), dtype=np.float32)
    np.save(options.input, image)
    with torch.no_grad():
        torch.onnx.export(
            torch_model(options), (torch.from_numpy(image),), str(options.onnx),
            input_names=["image"], output_names=["logits"], opset_version=17, dynamo=False,
        )  # fmt: skip


def torch_peer(options: argparse.Namespace, compiled: bool) -> tuple[Pass, str]:
    import torch

    torch.set_num_threads(options.threads)
    model = torch_model(options)
    image = torch.from_numpy(np.load(options.input))
    if compiled:
        if not any(shutil.which(name) for name in [os.environ.get("CXX", "c++"), "g++", "clang++"]):
            raise Skipped("torch.compile needs a C++ compiler")
        import torch._inductor.config

        torch._inductor.config.freezing = True
        model = torch.compile(model)

    def run() -> np.ndarray:
        with torch.no_grad():
            return model(image).numpy()

    if compiled:
        try:
            run()
        except Exception as error:
            raise Skipped(f"torch.compile failed: {str(error).splitlines()[0]}") from error
    return run, torch.__version__


def onnxruntime_peer(options: argparse.Namespace) -> tuple[Pass, str]:
    import onnxruntime

    onnxruntime.set_default_logger_severity(3)
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = options.threads
    session = onnxruntime.InferenceSession(str(options.onnx), settings, providers=["CPUExecutionProvider"])
    given = {session.get_inputs()[0].name: np.load(options.input)}
    return lambda: session.run(None, given)[0], onnxruntime.__version__


def openvino_peer(options: argparse.Namespace, precision: str) -> tuple[Pass, str]:
    import openvino

    # Without the hint of precision, processors with bf16 would compute in it.
    settings = {
        "INFERENCE_PRECISION_HINT": precision,
        "INFERENCE_NUM_THREADS": options.threads,
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": 1,
    }
    compiled = openvino.Core().compile_model(str(options.onnx), "CPU", settings)
    if compiled.get_property("INFERENCE_PRECISION_HINT").to_string() != precision:
        raise Skipped(f"OpenVINO computes in another precision than {precision} on this processor")
    request = compiled.create_infer_request()
    request.set_input_tensor(openvino.Tensor(np.load(options.input), shared_memory=True))

    def run() -> np.ndarray:
        request.infer()
        return request.get_output_tensor(0).data

    return run, openvino.__version__.split("-")[0]


PEERS = {
    "torch": lambda options: torch_peer(options, compiled=False),
    "torch-compile": lambda options: torch_peer(options, compiled=True),
    "onnxruntime": onnxruntime_peer,
    "openvino": lambda options: openvino_peer(options, "f32"),
    "openvino-bf16": lambda options: openvino_peer(options, "bf16"),
}


def serve(run: Pass) -> None:
    for line in sys.stdin:
        warm_up, passes = map(int, line.split())
        for _ in range(warm_up):
            run()
        times = []
        for _ in range(passes):
            started = time.perf_counter()
            run()
            times.append(1e3 * (time.perf_counter() - started))
        print(json.dumps(times), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["prepare", *PEERS])
    parser.add_argument("--model")
    parser.add_argument("--weights", type=pathlib.Path)
    parser.add_argument("--extents", type=int, nargs=3)
    parser.add_argument("--onnx", type=pathlib.Path)
    parser.add_argument("--input", type=pathlib.Path, required=True)
    parser.add_argument("--output", type=pathlib.Path)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    if options.what == "prepare":
        prepare(options)
        return
    try:
        run, version = PEERS[options.what](options)
    except Skipped as why:
        print(json.dumps({"skipped": str(why)}), flush=True)
        return
    np.save(options.output, run())
    print(json.dumps({"version": version}), flush=True)
    serve(run)


if __name__ == "__main__":
    main()
