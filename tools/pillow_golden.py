#!/usr/bin/env python3
"""Writes the goldens of `mila-data`: small images in odd forms and what Pillow, torchvision and timm make of them.

    pip install pillow==12.0.0 numpy timm==1.0.31 torch==2.9.1 torchvision==0.24.1
    python tools/pillow_golden.py                       # decode/, resize/ and transform/
    python tools/pillow_golden.py --photos DIR          # photos.csv, the fingerprints of the test photos
    python tools/pillow_golden.py --photos DIR --compare DUMPS    # whole pictures against DUMPS/NAME.rgb

Files `*.rgb` hold height and width as little-endian u32, then RGB bytes. Encoders differ between builds of Pillow, so a
second run may change the inputs; inputs and outputs are committed together.
"""

import argparse
import io
import struct
import zlib
from pathlib import Path

import numpy as np
import PIL
from PIL import Image, ImageOps

PILLOW = "12.0.0"
OUT = Path(__file__).resolve().parent.parent / "crates" / "mila-data" / "tests" / "golden"


def pattern(height, width):
    """A picture that the test computes too: smooth, rough and saturated parts, whole numbers only."""
    y, x, c = np.meshgrid(np.arange(height), np.arange(width), np.arange(3), indexing="ij")
    rough = (x * x * 31 + y * y * 17 + x * y * 7 + c * 101) // 8 % 256
    smooth = (x * 3 + y * 5 + c * 40) % 256
    hard = ((x // 3 + y // 2 + c) % 2) * 255
    return np.where(y % 16 < 5, rough, np.where(y % 16 < 10, smooth, hard)).astype(np.uint8)


def photo_like(height, width):
    """Smooth colours with a little noise, which a lossy format keeps."""
    rng = np.random.default_rng(7)
    y, x = np.mgrid[0:height, 0:width]
    waves = [128 + 90 * np.sin(x / 5 + k) * np.cos(y / 7 - k) for k in range(3)]
    noise = rng.normal(0, 6, (height, width, 3))
    return np.clip(np.stack(waves, -1) + noise, 0, 255).astype(np.uint8)


def write_rgb(path, image):
    array = np.asarray(image, np.uint8)
    path.write_bytes(struct.pack("<II", *array.shape[:2]) + array.tobytes())


def upright(source):
    with Image.open(source) as image:
        return ImageOps.exif_transpose(image).convert("RGB")


def exif(orientation):
    block = Image.Exif()
    block[0x0112] = orientation
    return block.tobytes()


def deep_png(image):
    """A PNG with 16 bits per channel, which Pillow reads and does not write."""
    array = (np.asarray(image).astype(">u2") * 257 + 99).clip(0, 65535).astype(">u2")
    height, width = array.shape[:2]
    chunk = lambda kind, body: (struct.pack(">I", len(body)) + kind + body
                                + struct.pack(">I", zlib.crc32(kind + body)))
    rows = b"".join(b"\0" + row.tobytes() for row in array)
    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b""))


def ycck(jpeg):
    """The same JPEG with the Adobe marker saying YCCK, which Pillow reads and does not write."""
    at = jpeg.index(b"Adobe") + 11
    assert jpeg[at] == 0
    return jpeg[:at] + b"\2" + jpeg[at + 1:]


def decode_cases(out):
    photo = Image.fromarray(photo_like(27, 37))
    grey = photo.convert("L")
    tall = Image.fromarray(pattern(500, 3))
    alpha = photo.copy()
    alpha.putalpha(Image.fromarray(pattern(27, 37)[..., 0]))
    deep = Image.fromarray((np.asarray(grey).astype(np.uint16) * 257 + 3).clip(0, 65535).astype(np.uint16))
    small = photo.resize((13, 10))
    one_bit = grey.point(lambda v: 255 * (v > 127)).convert("1")
    see_through = small.quantize(16)
    cases = {
        "grey.jpg": (grey, dict(quality=90)),
        "420.jpg": (photo, dict(quality=90, subsampling=2)),
        "422.jpg": (photo, dict(quality=90, subsampling=1)),
        "444.jpg": (photo, dict(quality=90, subsampling=0)),
        "progressive.jpg": (photo, dict(quality=80, progressive=True)),
        "restart.jpg": (photo, dict(quality=85, restart_marker_blocks=2)),
        "cmyk.jpg": (photo.convert("CMYK"), dict(quality=90)),
        "rgb.jpg": (photo, dict(quality=90, keep_rgb=True)),
        "1x1.jpg": (photo.crop((0, 0, 1, 1)), dict(quality=90)),
        "3x5.jpg": (photo.crop((0, 0, 3, 5)), dict(quality=90)),
        # Rough colours: no subsampling, because decoders treat the last and the only columns of chroma differently.
        "3x500.jpg": (tall, dict(quality=60, subsampling=0)),
        "500x3.jpg": (tall.transpose(Image.Transpose.ROTATE_90), dict(quality=60, subsampling=0)),
        "rgb.png": (small, {}),
        "grey.png": (grey, {}),
        "one_bit.png": (one_bit, {}),
        "four_bit.png": (small.convert("L").quantize(16), dict(bits=4)),
        "palette.png": (photo.quantize(64), {}),
        "transparent_palette.png": (see_through, dict(transparency=3)),
        "transparent_grey.png": (small.convert("L"), dict(transparency=100)),
        "alpha.png": (alpha, {}),
        "grey_alpha.png": (small.convert("LA"), {}),
        "deep_grey.png": (deep, {}),
        "1x1.png": (photo.crop((0, 0, 1, 1)), {}),
        "lossless.webp": (photo, dict(lossless=True)),
        "lossy.webp": (photo, dict(quality=80)),
        "alpha.webp": (alpha, dict(quality=80, exact=True)),
        "24.bmp": (small, {}),
        "palette.bmp": (small.quantize(16), {}),
        "one_bit.bmp": (one_bit, {}),
    }
    for value in range(10):
        cases[f"exif{value}.jpg"] = (small, dict(quality=90, exif=exif(value)))
        cases[f"exif{value}.png"] = (small, dict(exif=exif(value)))
    cases["exif6.webp"] = (small, dict(lossless=True, exif=exif(6)))
    for name, (image, options) in cases.items():
        buffer = io.BytesIO()
        kind = {"jpg": "JPEG"}.get(name.rsplit(".")[-1], name.rsplit(".")[-1].upper())
        image.save(buffer, kind, **options)
        (out / name).write_bytes(buffer.getvalue())
        # Clipping 16-bit grey at 255 is Pillow's choice that the crate does not follow: the high byte is expected.
        expected = Image.fromarray((np.asarray(deep) >> 8).astype(np.uint8)).convert("RGB")
        write_rgb(out / f"{name}.rgb", expected if name == "deep_grey.png" else upright(buffer))
    made = {"deep_rgb.png": deep_png(small), "ycck.jpg": ycck((out / "cmyk.jpg").read_bytes())}
    for name, content in made.items():
        (out / name).write_bytes(content)
        write_rgb(out / f"{name}.rgb", upright(io.BytesIO(content)))


RESIZES = [  # source, target; height x width
    ((33, 40), (50, 61)), ((33, 40), (7, 5)), ((17, 20), (17, 41)), ((33, 40), (20, 40)), ((1, 1), (5, 4)),
    ((3, 500), (64, 20)), ((500, 3), (20, 64)), ((701, 1003), (32, 32)), ((701, 1003), (51, 17)),
    ((31, 33), (32, 32)), ((2, 2), (41, 43)), ((1500, 2000), (16, 21)),
]


def resize_cases(out):
    for (h, w), (height, width) in RESIZES:
        image = Image.fromarray(pattern(h, w))
        for name in ("bilinear", "bicubic"):
            sized = image.resize((width, height), getattr(Image.Resampling, name.upper()))
            write_rgb(out / f"{h}x{w}_{height}x{width}_{name}.rgb", sized)


TRANSFORMS = [  # source, input size, crop_pct, crop_mode, interpolation
    ((150, 100), (40, 40), 0.875, "center", "bicubic"), ((99, 150), (32, 32), 0.95, "center", "bilinear"),
    ((40, 40), (40, 40), 1.0, "center", "bicubic"), ((31, 77), (33, 33), 0.9, "center", "bicubic"),
    ((120, 90), (32, 48), 0.875, "center", "bicubic"), ((90, 121), (48, 31), 0.9, "center", "bilinear"),
    ((120, 90), (33, 48), 0.875, "squash", "bicubic"), ((50, 21), (32, 33), 1.0, "border", "bicubic"),
    ((21, 50), (40, 40), 0.9, "border", "bilinear"), ((60, 60), (36, 36), 1.5, "center", "bicubic"),
    ((9, 11), (33, 32), 1.7, "squash", "bilinear"), ((5, 300), (24, 24), 0.875, "center", "bicubic"),
]


def transform_cases(out):
    import timm
    from timm.data import create_transform

    assert timm.__version__ == "1.0.31", timm.__version__
    for (h, w), size, crop_pct, mode, interpolation in TRANSFORMS:
        transform = create_transform((3, *size), is_training=False, crop_pct=crop_pct, crop_mode=mode,
                                     interpolation=interpolation, normalize=False)
        cut = transform(Image.fromarray(pattern(h, w))).permute(1, 2, 0).numpy()
        assert cut.shape == (*size, 3) and cut.dtype == np.uint8
        name = f"{h}x{w}_{size[0]}x{size[1]}_{crop_pct}_{mode}_{interpolation}.rgb"
        write_rgb(out / name, cut)


def fingerprint(path):
    """Sizes, channel means in 1/1000, and 16 x 16 pixels at the centres of a grid."""
    array = np.asarray(upright(path))
    height, width = array.shape[:2]
    rows, columns = ((2 * np.arange(16) + 1) * side // 32 for side in (height, width))
    grid = array[rows][:, columns].tobytes().hex()
    means = " ".join(str(round(v * 1000)) for v in array.reshape(-1, 3).mean(0, np.float64))
    return f"{path.name},{height},{width},{means},{grid}\n"


def compare(photos, dumps):
    worst, means = 0, []
    for path in photos:
        raw = (dumps / f"{path.name}.rgb").read_bytes()
        ours = np.frombuffer(raw, np.uint8, offset=8).reshape(*struct.unpack("<II", raw[:8]), 3)
        off = np.abs(ours.astype(int) - np.asarray(upright(path)))
        worst, means = max(worst, off.max()), means + [off.mean()]
        print(f"{path.name}: max {off.max()}, mean {off.mean():.4f}, above 1: {(off > 1).mean():.5%}")
    print(f"all: max {worst}, mean of means {np.mean(means):.4f}, largest mean {max(means):.4f}")


def main():
    assert PIL.__version__ == PILLOW, f"expected Pillow {PILLOW}, found {PIL.__version__}"
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, help="folder with the unpacked test photos")
    parser.add_argument("--compare", type=Path, help="folder with a NAME.rgb for each photo")
    args = parser.parse_args()
    if args.photos is None:
        for part, make in (("decode", decode_cases), ("resize", resize_cases), ("transform", transform_cases)):
            (OUT / part).mkdir(parents=True, exist_ok=True)
            make(OUT / part)
        return
    photos = sorted(args.photos.rglob("*.JPEG"))
    if args.compare is not None:
        return compare(photos, args.compare)
    (OUT / "photos.csv").write_text("".join(map(fingerprint, photos)))


if __name__ == "__main__":
    main()
