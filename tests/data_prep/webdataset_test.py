"""Shards that quadrat-pack wrote, read by tar and by Python's webdataset: every byte, every class.

Needs webdataset.
"""

import glob
import os
import subprocess
import sys
import tarfile
import tempfile
import unittest

import webdataset

BIN = os.environ["QUADRAT_BIN"]


def run(program, *arguments):
    done = subprocess.run([f"{BIN}/{program}", *map(str, arguments)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done


class WebDataset(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.root = folder.name
        run("quadrat-synth", "--output", self.root, "--tiles_across", 12, "--seed", 4)
        self.tiles = f"{self.root}/tiles"
        run("quadrat-cut", "--image", f"{self.root}/county4.tif", "--nlcd", f"{self.root}/county4_nlcd.tif",
            "--output", self.tiles)
        self.shards = f"{self.root}/shards"
        run("quadrat-pack", "--tiles", self.tiles, "--output", self.shards, "--tiles_per_shard", 16)
        self.files = {}
        for path in glob.glob(f"{self.tiles}/*/*.png"):
            with open(path, "rb") as file:
                self.files[os.path.relpath(path, self.tiles)] = file.read()

    def test_webdataset_reads_every_tile_and_class(self):
        self.assertGreater(len(self.files), 40)
        classes = sorted({name.split("/")[0] for name in self.files})
        paths = sorted(glob.glob(f"{self.shards}/*.tar"))
        self.assertGreater(len(paths), 2)
        found = {}
        for sample in webdataset.WebDataset(paths, shardshuffle=False):
            name = sample["__key__"] + ".png"
            found[name] = sample["png"]
            self.assertEqual(classes[int(sample["cls"])], name.split("/")[0])
        self.assertEqual(found, self.files)

    def test_index_points_at_each_png(self):
        with open(f"{self.shards}/shards.tsv") as lines:
            rows = [line.rstrip("\n").split("\t") for line in lines][1:]
        self.assertEqual(len(rows), len(self.files))
        for shard, key, label, offset, size, _ in rows:
            with open(f"{self.shards}/{shard}", "rb") as file:
                file.seek(int(offset))
                self.assertEqual(file.read(int(size)), self.files[key + ".png"])
            self.assertEqual(label, key.split("/")[0])

    def test_names_longer_than_a_tar_header_holds(self):
        for length in (90, 120, 230):
            tiles, shards = f"{self.root}/long{length}", f"{self.root}/packed{length}"
            os.mkdir(tiles)
            name = "n" * length
            with open(f"{tiles}/{name}.png", "wb") as file:
                file.write(b"content")
            run("quadrat-pack", "--tiles", tiles, "--output", shards)
            with tarfile.open(f"{shards}/tiles-000000.tar") as tar:
                self.assertEqual([member.name for member in tar], [f"{name}.png"])
                self.assertEqual(tar.extractfile(f"{name}.png").read(), b"content")
            listed = subprocess.run(["tar", "-tf", f"{shards}/tiles-000000.tar"], capture_output=True, text=True)
            self.assertEqual((listed.returncode, listed.stdout, listed.stderr), (0, f"{name}.png\n", ""))

    def test_damage_is_found_and_named(self):
        shard = f"{self.shards}/tiles-000001.tar"
        with open(shard, "r+b") as file:
            file.seek(5000)
            byte = file.read(1)
            file.seek(5000)
            file.write(bytes([byte[0] ^ 1]))
        done = subprocess.run([f"{BIN}/quadrat-pack", "--verify", self.shards], capture_output=True, text=True)
        self.assertEqual(done.returncode, 2)
        self.assertIn("tiles-000001.tar", done.stdout)
        self.assertNotIn("tiles-000000.tar", done.stdout)
        self.assertIn("shards is not as packed", done.stderr)
        os.truncate(shard, 6000)
        done = subprocess.run([f"{BIN}/quadrat-pack", "--verify", self.shards], capture_output=True, text=True)
        self.assertEqual(done.returncode, 2)
        self.assertIn("tiles-000001.tar", done.stderr)
        self.assertIn("cut short", done.stderr)


if __name__ == "__main__":
    unittest.main(verbosity=2, argv=sys.argv[:1])
