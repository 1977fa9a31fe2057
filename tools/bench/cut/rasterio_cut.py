"""What quadrat-cut is compared with: every whole 224 px tile of a raster, cut with rasterio and Pillow.

usage: rasterio_cut.py IMAGE OUTPUT PROCESSES [TILES]

Prints tiles, seconds, tiles/s and bytes a tile.
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
    path, output, rows, columns = job
    written = 0
    with rasterio.open(path) as image:
        for row in rows:
            for column in range(columns):
                window = Window(column * TILE, row * TILE, TILE, TILE)
                pixels = image.read((1, 2, 3), window=window).transpose(1, 2, 0)
                if (pixels.sum(axis=2) == 0).sum() > 10:
                    continue
                name = f"{output}/tile_{row * columns + column}.png"
                Image.fromarray(np.ascontiguousarray(pixels)).save(name)
                written += os.path.getsize(name)
    return written


def main():
    path, output, processes = sys.argv[1], sys.argv[2], int(sys.argv[3])
    os.makedirs(output)
    with rasterio.open(path) as image:
        columns, rows = image.width // TILE, image.height // TILE
    if len(sys.argv) > 4:
        rows = min(rows, int(sys.argv[4]) // columns)
    began = time.time()
    # Runs of rows, so that each process reads neighbouring blocks.
    jobs = [(path, output, range(first, min(rows, first + 2)), columns) for first in range(0, rows, 2)]
    with multiprocessing.Pool(processes) as pool:
        written = sum(pool.map(cut_rows, jobs, chunksize=1))
    seconds = time.time() - began
    tiles = rows * columns
    print(f"{tiles} tiles\t{seconds:.1f} s\t{tiles / seconds:.0f} tiles/s\t{written / tiles:.0f} bytes a tile")


if __name__ == "__main__":
    main()
