#!/usr/bin/env python3
"""Packs the 1,797 handwritten digits that scikit-learn ships into the two files that `mila demo` embeds.

    pip download scikit-learn==1.9.1 --no-deps --dest wheel
    python tools/digits.py wheel/scikit_learn-1.9.1-*.whl

It needs nothing but Python's own library. `digits-labels.txt` is one line of 1,797 digits. `digits.png` is an 8-bit grey
mosaic of tiles of 8x8 pixels, 60 tiles per row, row by row in the order of the data set; the last three tiles are black.
The ink of a pixel, a whole number 0..16, is stored as round(ink * 255 / 16), which all differ: ink = round(grey * 16 / 255).
"""

import argparse
import gzip
import hashlib
import struct
import zipfile
import zlib
from pathlib import Path

MEMBER = "sklearn/datasets/data/digits.csv.gz"
SHA256 = "6ebb3d2fee246a4e99363262ddf8a00a3c41bee6014c373ed9d9216ba7f651b8"
SIDE, COLUMNS = 8, 60
OUT = Path(__file__).resolve().parent.parent / "crates" / "mila" / "assets"


def read(wheel):
    """The tiles, each 64 values of ink in rows, and their labels."""
    with zipfile.ZipFile(wheel) as archive:
        table = gzip.decompress(archive.read(MEMBER))
    found = hashlib.sha256(table).hexdigest()
    if found != SHA256:
        raise SystemExit(f"{MEMBER}: expected SHA-256 {SHA256}, found {found}")
    lines = [[int(float(value)) for value in line.split(",")] for line in table.decode().split()]
    return [line[:-1] for line in lines], [line[-1] for line in lines]


def mosaic(tiles):
    """Rows of grey bytes."""
    height = -(-len(tiles) // COLUMNS) * SIDE
    rows = [bytearray(COLUMNS * SIDE) for _ in range(height)]
    for index, tile in enumerate(tiles):
        top, left = index // COLUMNS * SIDE, index % COLUMNS * SIDE
        for y in range(SIDE):
            for x in range(SIDE):
                rows[top + y][left + x] = (tile[y * SIDE + x] * 255 + 8) // 16
    return rows


def png(rows):
    """An 8-bit grey PNG. No row filter: the tiles are too small for one to pay (45 KB, against 54 to 72)."""

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", len(rows[0]), len(rows), 8, 0, 0, 0, 0)
    pixels = zlib.compress(b"".join(b"\0" + bytes(row) for row in rows), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("wheel", type=Path, help="a wheel of scikit-learn")
    tiles, labels = read(parser.parse_args().wheel)
    OUT.mkdir(parents=True, exist_ok=True)
    (OUT / "digits.png").write_bytes(png(mosaic(tiles)))
    (OUT / "digits-labels.txt").write_text("".join(map(str, labels)) + "\n")
    print(f"{len(tiles)} digits, {(OUT / 'digits.png').stat().st_size} bytes")


if __name__ == "__main__":
    main()
