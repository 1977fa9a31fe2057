"""Folders and files without permission: one line that names them, nothing written, nothing lost."""
import os
import shutil
import unittest

import common
from common import TILES, InFolder, run

SIX = ["--train", "tiles", "--validation", "tiles", "-p", "resnet18", "-r", "last_only", "-n", "1", "--batch_size", "16",
       "-o", "one"]


class Permissions(InFolder):
    def setUp(self):
        super().setUp()
        for name in sorted(os.listdir(os.path.join(TILES, "validation"))):
            os.makedirs(os.path.join("tiles", name))
            for tile in sorted(os.listdir(os.path.join(TILES, "validation", name)))[:4]:
                shutil.copy(os.path.join(TILES, "validation", name, tile), os.path.join("tiles", name, tile))
        self.classes = sorted(os.listdir("tiles"))
        self.closed = []

    def tearDown(self):
        for path in self.closed:
            os.chmod(path, 0o755)
        super().tearDown()

    def close(self, path, mode=0):
        os.chmod(path, mode)
        self.closed.append(path)
        return path

    def refuses(self, *parts, program, arguments, status=2, ranks=None):
        self.fails(status, *parts, "ermission denied", program=program, arguments=arguments, ranks=ranks,
                   within_permissions=True)

    def some_tile(self):
        folder = os.path.join("tiles", self.classes[0])
        return os.path.join(folder, sorted(os.listdir(folder))[0])

    def test_training_names_the_tile_it_may_not_read(self):
        tile = self.close(self.some_tile())
        for ranks in (None, 2):
            done = run("quadrat-finetune", *SIX, ranks=ranks, expect=2, within_permissions=True)
            errors = [line for line in done.stderr.splitlines() if "error: " in line]
            self.assertEqual(len(errors), 1, done.stderr)
            self.assertIn(f"'{tile}': Permission denied", errors[0])

    def test_training_names_the_folder_it_may_not_list(self):
        self.close(os.path.join("tiles", self.classes[0]))
        self.refuses(self.classes[0], program="quadrat-finetune", arguments=SIX)

    def test_training_names_the_runs_folder_it_may_not_write(self):
        os.mkdir("runs")
        self.close("runs", 0o555)
        self.refuses("runs/one", program="quadrat-finetune", arguments=SIX, ranks=2)
        self.assertEqual(os.listdir("runs"), [])

    def test_training_names_the_weights_it_may_not_read(self):
        with open("weights.pth", "wb") as f:
            f.write(b"PK")
        self.close("weights.pth")
        self.refuses("weights.pth", program="quadrat-finetune", arguments=[*SIX, "--pretrained_weights", "weights.pth"])

    def test_scoring_rejects_the_tile_it_may_not_read_and_goes_on(self):
        run("quadrat-finetune", *SIX)
        os.mkdir("flat")
        for name in self.classes:
            for tile in os.listdir(os.path.join("tiles", name)):
                shutil.copy(os.path.join("tiles", name, tile), "flat")
        tile = sorted(os.listdir("flat"))[3]
        self.close(os.path.join("flat", tile))
        score = ["--tiles", "flat", "-o", "one", "--precision", "fp32"]
        done = run("quadrat-score", *score, within_permissions=True)
        self.assertIn("1 rejected", done.stdout + done.stderr)
        with open("scores/one/predictions.csv") as f:
            rows = f.read().splitlines()
        self.assertEqual(len(rows), 1 + len(os.listdir("flat")) - 1)
        self.assertNotIn(tile, "".join(rows))

        shutil.rmtree("scores")
        os.mkdir("scores")
        self.close("scores", 0o555)
        self.refuses("scores/one", program="quadrat-score", arguments=score)
        self.assertEqual(os.listdir("scores"), [])
        self.close("runs/one/run.h5")
        self.refuses("run.h5", program="quadrat-runs", arguments=["show", "one"])

    def test_reports_and_shards_name_the_folder_they_may_not_write(self):
        run("quadrat-finetune", *SIX)
        os.mkdir("closed")
        self.close("closed", 0o555)
        self.refuses("closed/report", program="quadrat-report", arguments=["--run", "one", "--output", "closed/report"])
        self.refuses("closed/shards", program="quadrat-pack", arguments=["--tiles", "tiles", "--output", "closed/shards"])
        self.refuses("closed/county", program="quadrat-synth",
                     arguments=["--output", "closed/county", "--seed", "1", "--tiles_across", "2"])
        self.assertEqual(os.listdir("closed"), [])


if __name__ == "__main__":
    common.need_real_tiles()
    unittest.main()
