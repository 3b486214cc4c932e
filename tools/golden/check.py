"""Checks of the oracle itself: `python tools/golden/check.py [mila_state_dict.json]`.

The JSON lists names and shapes of the released models:
{"T": {"cls": {name: shape}, "dense": {...}}, "S": ..., "B": ...}.
"""

import json
import math
import sys

import torch

import mila
from values import fnv1a, parameter, splitmix64, symmetric

PARAMETERS = {"T": 24_392_200, "S": 43_015_048, "B": 95_983_960}
PYRAMID_PARAMETERS = {"T": 23_880_096, "S": 42_502_944, "B": 95_216_304}

# The first three elements as f32 bits.
VALUES = (
    ("input", (1, 3, 4, 4), "bfcdeac2 3f1c045c bf97be90"),
    ("head.weight", (10, 128), "3d8ede40 3db06e27 b98f52e8"),
    ("head.bias", (10,), "bde94520 3e218eca bd2ce793"),
    ("norm.weight", (128,), "3f5b96b9 3f375588 3f856a8a"),
    ("patch_embed.conv1.norm.running_var", (8,), "3f1ee7fe 3f5b0a8c 3f7991c3"),
    ("patch_embed.conv1.norm.running_mean", (8,), "3e242ca3 bd931abd 3d5bc927"),
    ("stages.0.blocks.0.gamma", (16,), "3eb920ca 3ef11c55 3f339198"),
)

THETA = """
    1 .5623413 .3162278 .1778279 .1 .0562341 .0316228 .0177828
    .01 .0056234 .0031623 .0017783 .001 .0005623 .0003162 .0001778"""

# (height, width, channels, heads): rows printed for the pre-activations sin(0.7 (i + 1) (c + 1) + s).
ATTENTION = {
    (2, 2, 4, 1): """
        -0.4269645 -0.1402237 -0.1821395 -0.2919352
        -0.3593548 -0.3951992 -0.1556965 -0.0480895
        -0.5227450 -0.0279942 -0.2224079 -0.1636027
        -0.5382066  0.0318736 -0.2274392 -0.0657385""",
    (1, 3, 8, 2): """
        -0.6601895 -0.3333283 -0.0787594 -0.3275605 -0.1991648 -0.1927358  0.4236430  0.4830379
        -0.6147729 -0.4452382 -0.1511484 -0.2592465 -0.0806612 -0.2751303  0.0636043  0.5856665
        -0.6842119 -0.3529658  0.0014650 -0.2118259  0.2190772  0.2364749 -0.2297581  0.4585427""",
    (3, 2, 8, 1): """
        -0.3517117 -0.1529816 -0.0986201 -0.0222515 -0.1033704  0.0940674  0.0350415  0.3377153
        -0.3477997 -0.1840718 -0.0565806  0.0741121 -0.1664009  0.0714990  0.0145422  0.3292194
        -0.4239104 -0.1157248 -0.0671568  0.0101693 -0.1055017  0.0432733  0.0715230  0.2344796
        -0.4253543 -0.1067190 -0.0406979 -0.0009578 -0.1198335  0.0775620  0.0546522  0.1863115
        -0.2782056 -0.0577618  0.1079175  0.0377848 -0.0405663 -0.0854367  0.0799557 -0.0602999
        -0.2308698 -0.0858467  0.1048288  0.0361993 -0.0866216 -0.0124827  0.0702319 -0.0789017""",
}


def check_counts() -> None:
    """Parameter counts of T, S, B, classifier and pyramid, to the unit."""
    with torch.device("meta"):
        for name in "TSB":
            for kind, counts in ((mila.Classifier, PARAMETERS), (mila.Pyramid, PYRAMID_PARAMETERS)):
                found = sum(p.numel() for p in kind(getattr(mila, name)).parameters())
                assert found == counts[name], f"{kind.__name__} {name}: expected {counts[name]}, found {found}"
                print(f"{kind.__name__} {name}: {found:,} parameters")


def check_keys(path: str) -> None:
    """Names, shapes and order of the state dictionaries, the rotary tables aside."""
    with open(path) as file:
        released = json.load(file)
    with torch.device("meta"):
        for name in "TSB":
            for kind, key in ((mila.Classifier, "cls"), (mila.Pyramid, "dense")):
                expected = [(k, s) for k, s in released[name][key].items() if not k.endswith("rope.rotations")]
                model = kind(getattr(mila, name))
                found = [(k, list(t.shape)) for k, t in model.state_dict().items()]
                assert dict(found) == dict(expected), f"{name} {key}: names or shapes differ"
                assert found == expected, f"{name} {key}: order differs"
                print(f"{name} {key}: {len(found)} keys equal in name, shape and order")


def check_rotary() -> None:
    """Anchors at C = 64, norm preservation, dependence on the relative position only."""
    cos, sin = mila.rotary_table(4, 6, 64)
    for pair, angle in ((0, 3), (16, 5)):
        assert abs(cos[3, 5, pair].item() - math.cos(angle)) < 1e-7, f"cos of pair {pair}"
        assert abs(sin[3, 5, pair].item() - math.sin(angle)) < 1e-7, f"sin of pair {pair}"
    assert f"{cos[3, 5, 0]:.7f} {sin[3, 5, 0]:.7f}" == "-0.9899925 0.1411200", "rotations[3, 5, 0]"
    theta = torch.atan2(*(t[1, 0, :16] for t in (sin, cos)))
    worst = max(abs(t - float(p)) for t, p in zip(theta.tolist(), THETA.split(), strict=True))
    assert worst < 1.5e-7, f"theta differs by {worst}"

    table = mila.rotary_table(6, 7, 8, torch.float64)
    q, k = (symmetric(name, (8,)).double().expand(1, 6, 7, 8) for name in ("q", "k"))
    rq, rk = mila.rotate(q, *table)[0], mila.rotate(k, *table)[0]
    assert (rq.norm(dim=-1) - q.norm(dim=-1)).abs().max() < 1e-12, "rotation changes the norm"
    scores = torch.einsum("abc,dec->abde", rq, rk)
    shifted = (scores[1:, 2:, 1:, 2:] - scores[:-1, :-2, :-1, :-2]).abs().max()
    assert shifted < 1e-12, f"scores depend on more than the offset, by {shifted}"
    print(f"rotary: anchors hold, theta within {worst:.1e} of the printed digits, scores depend on the offset only")


def check_attention() -> None:
    """Printed anchors of the attention core with an f64 table to the digit; with the f32 table within its rounding."""
    for (height, width, channels, heads), text in ATTENTION.items():
        expected = torch.tensor([float(x) for x in text.split()], dtype=torch.float64).reshape(-1, channels)
        token = torch.arange(1, height * width + 1, dtype=torch.float64)[:, None]
        channel = torch.arange(1, channels + 1, dtype=torch.float64)
        q, k, v = ((0.7 * token * channel + s).sin().reshape(1, height, width, channels) for s in (0.1, 1.3, 2.7))
        qk = torch.cat([q, k], dim=-1)
        worst = {}
        for dtype in (torch.float64, torch.float32):
            found = mila.linear_attention(qk, v, heads, dtype).reshape(-1, channels)
            worst[dtype] = (found - expected).abs().max().item()
        assert worst[torch.float64] < 0.51e-7, f"attention {height}x{width}: differs by {worst[torch.float64]}"
        assert worst[torch.float32] < 2e-7, f"attention {height}x{width}: differs by {worst[torch.float32]}"
        quadratic = quadratic_attention(qk, v, heads)
        assert (quadratic - mila.linear_attention(qk, v, heads)).abs().max() < 1e-14, "quadratic form differs"
        print(
            f"attention {height}x{width}x{channels}, {heads} heads: off the printed digits by at most "
            f"{worst[torch.float64]:.1e} (f64 angles), {worst[torch.float32]:.1e} (f32 angles)"
        )


def quadratic_attention(qk: torch.Tensor, v: torch.Tensor, heads: int) -> torch.Tensor:
    """o_i = sum_j (R q_i . R k_j) v_j / (sum_j q_i . k_j + N 1e-6), batch 1, head by head."""
    _, height, width, channels = v.shape
    tokens = height * width
    q, k = (torch.nn.functional.elu(qk) + 1).split(channels, dim=-1)
    table = mila.rotary_table(height, width, channels)
    out = torch.empty(tokens, channels, dtype=v.dtype)
    for head in torch.arange(channels).chunk(heads):
        rq, rk = (mila.rotate(x, *table)[..., head].reshape(tokens, -1) for x in (q, k))
        qh, kh, vh = (x[..., head].reshape(tokens, -1) for x in (q, k, v))
        out[:, head] = (rq @ rk.T @ vh) / ((qh @ kh.T).sum(dim=1, keepdim=True) + tokens * 1e-6)
    return out.reshape(v.shape)


def check_padding() -> None:
    """Classifier trunk and pyramid trunk agree at multiples of 32 and differ at odd sizes."""
    config = mila.Config(16, (1, 1, 1, 1), (1, 2, 4, 8), 10)
    torch.manual_seed(0)
    classifier, pyramid = mila.Classifier(config).double().eval(), mila.Pyramid(config).double().eval()
    pyramid.load_state_dict(classifier.state_dict(), strict=False)
    for size, equal in (((32, 64), True), ((33, 47), False)):
        image = torch.rand(1, 3, *size, dtype=torch.float64)
        worst = max((a - b).abs().max() for a, b in zip(classifier.stages(image), pyramid.stages(image), strict=True))
        assert (worst < 1e-12) == equal, f"{size}: trunks differ by {worst}"
    print("padding: trunks agree at 32x64 and differ at 33x47")


def check_values() -> None:
    """SplitMix64 from seed 0 and FNV-1a of a known string by their published test values; the rows of the README."""
    assert [int(x) for x in splitmix64(0, 2)] == [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4], "SplitMix64"
    assert fnv1a("foobar") == 0x85944171F73967E8, "FNV-1a-64"
    for name, shape, expected in VALUES:
        tensor = symmetric(name, shape, 2.0) if name == "input" else parameter(name, shape)
        found = " ".join(f"{bits & 0xFFFFFFFF:08x}" for bits in tensor.flatten()[:3].view(torch.int32).tolist())
        assert found == expected, f"{name}: expected {expected}, found {found}"
    print("values: SplitMix64 and FNV-1a-64 give their published test values")


if __name__ == "__main__":
    with torch.no_grad():
        check_values()
        check_counts()
        check_rotary()
        check_attention()
        check_padding()
        if len(sys.argv) > 1:
            check_keys(sys.argv[1])
        else:
            print("SKIPPED: state-dictionary names (no JSON given)", file=sys.stderr)
