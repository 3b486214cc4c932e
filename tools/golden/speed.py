"""PyTorch eager beside our numbers: `python tools/golden/speed.py [THREADS]`, MILA-T at 224x224 in f32."""

import sys
import time
from collections.abc import Callable

import torch

import mila


def milliseconds(run: Callable[[], object], repeats: int) -> tuple[float, float]:
    """Median and best of `repeats` runs after one warm-up."""
    run()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        times.append(1e3 * (time.perf_counter() - start))
    return sorted(times)[repeats // 2], min(times)


def main() -> None:
    torch.set_num_threads(int(sys.argv[1]) if len(sys.argv) > 1 else 2)
    model = mila.Classifier(mila.T).float()
    first = lambda output: output[0] if isinstance(output, (tuple, list)) else output  # noqa: E731
    model.eval()
    with torch.inference_mode():
        for batch in (1, 8):
            x = torch.randn(batch, 3, 224, 224)
            median, best = milliseconds(lambda x=x: model(x), 20 if batch == 1 else 8)
            print(f"torch {torch.__version__} forward batch {batch}: median {median / batch:.1f}, best {best / batch:.1f} ms an image")
    model.train()
    x = torch.randn(4, 3, 224, 224)
    labels = torch.arange(4)
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.05)

    def step() -> None:
        optimiser.zero_grad()
        torch.nn.functional.cross_entropy(first(model(x)), labels).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimiser.step()

    median, best = milliseconds(step, 7)
    print(f"torch {torch.__version__} training step batch 4: median {median:.0f}, best {best:.0f} ms")


if __name__ == "__main__":
    main()
