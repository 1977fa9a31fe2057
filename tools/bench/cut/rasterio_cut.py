"""What quadrat-cut is compared with: every whole 224 px tile of a raster, cut with rasterio and Pillow.

usage: rasterio_cut.py IMAGE OUTPUT PROCESSES [COMPRESS_LEVEL [TILES]]

Each process opens the raster once and reads a row of tiles at a time, which is faster than a window for each tile.
COMPRESS_LEVEL is Pillow's, 6 by default as there. Prints tiles, seconds, tiles/s and bytes a tile.
"""

import multiprocessing
import os
import sys
import time

import numpy as np
import rasterio
from PIL import Image
from rasterio.windows import Window

TILE = 224


def cut_rows(job):
    path, output, rows, columns, level = job
    written = 0
    with rasterio.open(path) as image:
        for row in rows:
            strip = image.read((1, 2, 3), window=Window(0, row * TILE, columns * TILE, TILE)).transpose(1, 2, 0)
            for column in range(columns):
                pixels = strip[:, column * TILE : (column + 1) * TILE]
                if np.count_nonzero(~pixels.any(axis=2)) > 10:
                    continue
                name = f"{output}/tile_{row * columns + column}.png"
                Image.fromarray(np.ascontiguousarray(pixels)).save(name, compress_level=level)
                written += os.path.getsize(name)
    return written


def main():
    path, output, processes = sys.argv[1], sys.argv[2], int(sys.argv[3])
    level = int(sys.argv[4]) if len(sys.argv) > 4 else 6
    os.makedirs(output)
    with rasterio.open(path) as image:
        columns, rows = image.width // TILE, image.height // TILE
    if len(sys.argv) > 5:
        rows = min(rows, int(sys.argv[5]) // columns)
    began = time.time()
    # Runs of rows, so that each process reads neighbouring blocks.
    jobs = [(path, output, range(first, min(rows, first + 4)), columns, level) for first in range(0, rows, 4)]
    with multiprocessing.Pool(processes) as pool:
        written = sum(pool.map(cut_rows, jobs, chunksize=1))
    seconds = time.time() - began
    tiles = rows * columns
    print(f"{tiles} tiles\t{seconds:.1f} s\t{tiles / seconds:.0f} tiles/s\t{written / tiles:.0f} bytes a tile")


if __name__ == "__main__":
    main()
