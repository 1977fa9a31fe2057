"""decode_png against Pillow on PngSuite and real tiles, and encode_png's files read by Pillow.

The written rule is image/png.h's: Pillow's own conversion where the two agree, and the high byte of 16-bit grey,
which Pillow would clip instead.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

data = Path(os.environ["QUADRAT_SHARED"]) / "data"
program = Path(os.environ["QUADRAT_BIN"]).parent / "tests" / "png_to_rgb"


def expected_rgb(path):
    image = Image.open(path)
    if image.mode.startswith("I"):
        high = (np.asarray(image).astype(np.int64) >> 8).astype(np.uint8)
        return np.repeat(high[:, :, None], 3, axis=2)
    if image.mode == "P":
        # Without its transparency, which convert() would otherwise look up as well.
        image.info.pop("transparency", None)
    return np.asarray(image.convert("RGB"))


def main():
    suite = sorted((data / "png" / "suite").glob("*.png"))
    valid = [p for p in suite if not p.name.startswith("x")]
    bad = [p for p in suite if p.name.startswith("x")] + sorted((data / "png" / "crashers").glob("*"))
    tiles = sorted((data / "tiles").rglob("*.png"))
    assert (len(valid), len(bad)) == (161, 14 + 27), (len(valid), len(bad))
    assert len(tiles) == 361, len(tiles)
    paths = valid + tiles + bad
    failures = []
    with tempfile.TemporaryDirectory() as folder:
        answer = subprocess.run(
            [program, f"{folder}/rgb"], input="\n".join(map(str, paths)), text=True, check=True,
            stdout=subprocess.PIPE).stdout.splitlines()
        assert len(answer) == len(paths)
        for n, (path, line) in enumerate(zip(paths, answer)):
            if n >= len(valid) + len(tiles):
                if not line.startswith("refused: cannot decode PNG: "):
                    failures.append(f"{path} is decoded")
                continue
            if line.startswith("refused"):
                failures.append(f"{path}: {line}")
                continue
            width, height = map(int, line.split())
            pixels = np.fromfile(f"{folder}/rgb.{n}", np.uint8).reshape(height, width, 3)
            if not np.array_equal(pixels, expected_rgb(path)):
                failures.append(f"{path}: other pixels than Pillow's")
    print(f"{len(valid)} of PngSuite and {len(tiles)} tiles compared, {len(bad)} bad files tried")
    for failure in failures:
        print(failure)
    return bool(failures)


if __name__ == "__main__":
    sys.exit(main())
