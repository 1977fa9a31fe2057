"""Training and scoring read packed shards as they read folders: the same tiles in the same order, to the last bit."""
import os
import re
import unittest

import h5py
import numpy as np
import pandas as pd

import common
from common import TILES, InFolder, run

COLUMNS = ["train_loss", "train_error", "validation_loss", "validation_error", "learning_rate"]


def content(path):
    with open(path, "rb") as f:
        return f.read()


class Packed(InFolder):
    def setUp(self):
        super().setUp()
        for name in ("train", "validation"):
            run("quadrat-pack", "--tiles", f"{TILES}/{name}", "--output", f"packed/{name}", "--tiles_per_shard", 50)
            self.assertGreater(len([f for f in os.listdir(f"packed/{name}") if f.endswith(".tar")]), 2)

    def test_training_and_scoring(self):
        for name, data in (("folders", TILES), ("shards", "packed")):
            run("quadrat-finetune", "--train", f"{data}/train", "--validation", f"{data}/validation", "-f", 0.1, "-p", "resnet18",
                "-r", "all", "-n", 2, "--batch_size", 16, "--precision", "fp32", "-o", name, ranks=2)
            run("quadrat-score", "--tiles", f"{data}/validation", "-o", "folders", "--name", name, "--precision", "fp32", ranks=2)
        folders, shards = (pd.read_hdf(f"runs/{name}/run.h5", "epochs") for name in ("folders", "shards"))
        pd.testing.assert_frame_equal(folders[COLUMNS], shards[COLUMNS], check_exact=True)
        for file in ("model.safetensors", "predictions_validation.csv", "labels_to_inds.tsv"):
            self.assertEqual(content(f"runs/folders/{file}"), content(f"runs/shards/{file}"), file)
        self.assertEqual(content("scores/folders/predictions.csv"), content("scores/shards/predictions.csv"))
        with h5py.File("scores/folders/scores.h5") as a, h5py.File("scores/shards/scores.h5") as b:
            np.testing.assert_array_equal(a["predictions"][:], b["predictions"][:])
        pictures = {}
        for name in ("folders", "shards"):
            run("quadrat-report", "--run", name, "--output", f"report/{name}")
            pictures[name] = re.findall(r'<img src="data:image/png;base64,[^"]+"', content(f"report/{name}/index.html").decode())
        self.assertGreater(len(pictures["folders"]), 2)
        self.assertEqual(pictures["folders"], pictures["shards"])


if __name__ == "__main__":
    common.need_real_tiles()
    unittest.main(verbosity=2)
