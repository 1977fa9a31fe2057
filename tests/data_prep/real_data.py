"""quadrat-cut on real NAIP and NLCD rasters against rasterio, pyproj and numpy, which share none of its code.

Needs numpy, Pillow, rasterio and pyproj. Real data comes from $QUADRAT_SHARED/data.
"""

import csv
import json
import math
import os
import subprocess
import sys
import tempfile
import unittest

import numpy as np
import pyproj
import rasterio
from PIL import Image
from rasterio.transform import from_origin
from rasterio.windows import Window

BIN = os.environ["QUADRAT_BIN"]
DATA = os.path.join(os.environ.get("QUADRAT_SHARED", "../shared"), "data")
TILE = 224
NLCD_CLASSES = {
    **dict.fromkeys((21, 22, 23, 24), "Developed"),
    31: "Barren",
    **dict.fromkeys((41, 42, 43, 90), "Forest"),
    **dict.fromkeys((51, 52), "Shrub"),
    **dict.fromkeys((71, 72, 73, 74, 95), "Herbaceous"),
    **dict.fromkeys((81, 82), "Cultivated"),
}


def cut(*arguments):
    done = subprocess.run([f"{BIN}/quadrat-cut", *map(str, arguments)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done


def read_csv(path):
    with open(path, newline="") as lines:
        return list(csv.DictReader(lines))


class RealData(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.addCleanup(self.folder.cleanup)
        self.out = os.path.join(self.folder.name, "tiles")

    def data(self, *names):
        path = os.path.join(DATA, *names)
        if not os.path.exists(path):
            if os.environ.get("CI") == "true":
                self.fail(f"{path} is missing")
            self.skipTest(f"{path} is missing")
        return path

    def test_naip_pixels_and_corners(self):
        images = [
            self.data("naip", name)
            for name in ("m_3607717_sw_18_1_20160620_subset.tif", "m_3607824_se_17_1_20160620_subset.tif")
        ]
        cut("--image", *images, "--output", self.out)
        rows = {row["filename"]: row for row in read_csv(f"{self.out}/tile_summaries.csv")}
        self.assertEqual(len(rows), 2)  # one whole tile in 300 x 300 pixels
        for path in images:
            stem = os.path.splitext(os.path.basename(path))[0]
            with rasterio.open(path) as image:
                expected = image.read((1, 2, 3), window=Window(0, 0, TILE, TILE)).transpose(1, 2, 0)
                found = np.asarray(Image.open(f"{self.out}/{stem}_0.png"))
                np.testing.assert_array_equal(found, expected)
                self.assertGreater(found.std(), 5)
                to_wgs84 = pyproj.Transformer.from_crs(image.crs.to_wkt(), 4326, always_xy=True)
                row = rows[f"{stem}_0.png"]
                for corner, (column, line) in (("ll", (0, TILE)), ("ur", (TILE, 0))):
                    lon, lat = to_wgs84.transform(*(image.transform @ (column, line)))
                    north = (float(row[f"{corner}crnrlat"]) - lat) * 111_320
                    east = (float(row[f"{corner}crnrlon"]) - lon) * 111_320 * math.cos(math.radians(lat))
                    self.assertLess(math.hypot(north, east), 0.5)

    def check_labels(self, crs, x, y, columns, rows):
        """Labels a grid in `crs` from its north-west corner on the real NLCD raster and compares every tile."""
        nlcd_path = self.data("nlcd", "nlcd2011_zion_utah.tif")
        image_path = os.path.join(self.folder.name, "ground.tif")
        transform = from_origin(x, y, 1, 1)
        with rasterio.open(
            image_path, "w", driver="GTiff", width=columns * TILE + 13, height=rows * TILE + 200, count=3,
            dtype="uint8", crs=crs, transform=transform, tiled=True, sparse_ok=True, BIGTIFF="YES",
        ):
            pass  # no pixel is written: labelling reads none
        cut("--image", image_path, "--nlcd", nlcd_path, "--labels_only", "--output", self.out)
        found = {(int(row["i"])): row["label"] for row in read_csv(f"{self.out}/manifest.csv")}

        with rasterio.open(nlcd_path) as nlcd:
            codes = nlcd.read(1)
            to_nlcd = pyproj.Transformer.from_crs(crs, nlcd.crs.to_wkt(), always_xy=True)
            inverse = ~nlcd.transform
            nodata = nlcd.nodata
        expected, counts = {}, {"mixed_classes": 0, "code_without_class": 0, "no_land_cover": 0}
        fractions = np.array([1 / 6, 3 / 6, 5 / 6])
        for i in range(columns * rows):
            left, top = x + (i % columns) * TILE, y - (i // columns) * TILE
            px, py = np.meshgrid(left + fractions * TILE, top - fractions * TILE)
            column, line = inverse @ np.array(to_nlcd.transform(px.ravel(), py.ravel()))
            column, line = np.floor(column).astype(int), np.floor(line).astype(int)
            inside = (column >= 0) & (line >= 0) & (column < codes.shape[1]) & (line < codes.shape[0])
            values = codes[line[inside], column[inside]]
            if not inside.all() or (nodata is not None and (values == nodata).any()):
                counts["no_land_cover"] += 1
                continue
            labels = {NLCD_CLASSES.get(int(code)) for code in values}
            if None in labels:
                counts["code_without_class"] += 1
            elif len(labels) > 1:
                counts["mixed_classes"] += 1
            else:
                expected[i] = labels.pop()
        self.assertEqual(found, expected)
        with open(f"{self.out}/tiles.json") as report:
            discarded = json.load(report)["discarded"]
        self.assertEqual({k: discarded.get(k, 0) for k in counts}, counts)
        return expected, counts

    def test_nlcd_labels_in_its_own_zone(self):
        # The raster's whole extent and a little beyond its edges: 33.8 km x 42.8 km.
        with rasterio.open(self.data("nlcd", "nlcd2011_zion_utah.tif")) as nlcd:
            x, y = nlcd.bounds.left - 500, nlcd.bounds.top + 500
        expected, counts = self.check_labels("EPSG:32612", x, y, 155, 195)
        self.assertGreater(len(set(expected.values())), 4)
        self.assertGreater(min(counts.values()), 0)

    def test_nlcd_labels_across_projections(self):
        x, y = pyproj.Transformer.from_crs(4326, 5070, always_xy=True).transform(-113.15, 37.45)
        expected, _ = self.check_labels("EPSG:5070", x, y, 90, 80)
        self.assertGreater(len(expected), 1000)


if __name__ == "__main__":
    unittest.main(verbosity=2, argv=sys.argv[:1])
