"""Trainings of quadrat-finetune that must be one and the same: accumulated batches, kept and fresh features, ranks that change.

SIGUSR1 comes at 2 instants; at as many as QUADRAT_INSTANTS says where it is set.
"""
import os
import shutil
import random
import signal
import subprocess
import time
import unittest

import h5py
import numpy as np
import pandas as pd
import torch
import torchvision
from PIL import Image
from safetensors.torch import load_file

import common
from common import TILES, InFolder, run

PROGRAM = "quadrat-finetune"
DATA = ["--train", f"{TILES}/train", "--validation", f"{TILES}/validation"]
SMALL = [*DATA, "-f", "0.2", "--precision", "fp32", "--learning_rate", "1e-5"]  # 48 and 24 tiles
LOSSES = ["train_loss", "validation_loss"]


def losses(name, *arguments, ranks=None):
    done = run(PROGRAM, *SMALL, *arguments, "-o", name, ranks=ranks)
    return pd.read_hdf(f"runs/{name}/run.h5", "epochs")[LOSSES].to_numpy(), done


class Accumulation(InFolder):
    # 48 tiles are 3 batches of 16: two steps, of 32 and of 16 tiles, as with batches of 32.
    def same(self, rtol, *arguments, ranks=None):
        whole, _ = losses("whole", "--batch_size", "32", *arguments, ranks=ranks)
        parts, _ = losses("parts", "--batch_size", "16", "--accumulate_batches", "2", *arguments, ranks=ranks)
        np.testing.assert_allclose(parts, whole, rtol=rtol)
        other, _ = losses("other", "--batch_size", "16", *arguments, ranks=ranks)
        self.assertGreater(np.abs(other / whole - 1).max(), 2 * rtol, "steps of half the size are no other training")

    def test_a_last_layer_on_two_ranks(self):
        # A sum over 32 rows in another order: 32 x 2^-24 = 2e-6 of it, in each of 6 steps.
        self.same(2e-5, "-p", "resnet18", "-r", "last_only", "-n", "3", ranks=2)

    def test_all_layers(self):
        # As between numbers of ranks: 10^4 terms in another order.
        self.same(1e-4, "-p", "resnet18", "-r", "all", "--batch_norm", "frozen", "-n", "1", ranks=2)


class Features(InFolder):
    def same_where_they_do_not_fit(self, *arguments):
        kept, done = losses("kept", "-n", "3", "--batch_size", "16", *arguments, ranks=2)
        self.assertNotIn("computed anew", done.stderr)
        fresh, done = losses("fresh", "-n", "3", "--batch_size", "16", "--memory_limit", "1e-5", *arguments, ranks=2)
        self.assertEqual(done.stderr.count("computed anew"), 2, done.stderr)  # training and validation
        # A tile's features do not depend on its company: not a bit differs.
        np.testing.assert_array_equal(fresh, kept)

    def test_of_resnet18_without_augmentation(self):
        self.same_where_they_do_not_fit("-p", "resnet18", "-r", "last_only", "--augment", "none")

    def test_of_resnet18_in_views(self):
        self.same_where_they_do_not_fit("-p", "resnet18", "-r", "last_only", "--views", "2")

    def test_of_alexnet_in_bf16(self):
        arguments = [*DATA, "-f", "0.1", "--precision", "bf16", "--batch_size", "16", "-n", "2", "--views", "2", "-p",
                     "alexnet", "-r", "last_only"]
        for name, more in (("kept", []), ("fresh", ["--memory_limit", "1e-5"])):
            run(PROGRAM, *arguments, *more, "-o", name)
        kept, fresh = (pd.read_hdf(f"runs/{name}/run.h5", "epochs")[LOSSES].to_numpy() for name in ("kept", "fresh"))
        np.testing.assert_array_equal(fresh, kept)

    def torchvision_agrees(self, network, layers):
        """The record's probabilities come from kept features: torchvision's come from pixels and the whole model."""
        losses("model", "-n", "1", "--batch_size", "16", "-p", network, "-r", layers)
        with h5py.File("runs/model/run.h5") as f:
            table, classes = f["predictions/validation"][:], [c.decode() for c in f["classes"]]
        model = getattr(torchvision.models, network)(num_classes=len(classes))
        model.load_state_dict(load_file("runs/model/model.safetensors"))
        normalise = torchvision.transforms.Compose([
            torchvision.transforms.ToTensor(),
            torchvision.transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])])
        x = torch.stack([normalise(Image.open(f"{TILES}/validation/{t.decode()}")) for t in table["tile"]])
        with torch.no_grad():
            expected = torch.log_softmax(model.eval()(x), 1).numpy()
        ours = np.log(np.stack([table[f"p_{c}"] for c in classes], 1))
        # Sums of up to 9216 terms in another order through 18 or 8 layers.
        np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-4)

    def test_of_resnet18_are_the_network_s(self):
        self.torchvision_agrees("resnet18", "last_only")

    def test_of_alexnet_s_convolutions_are_the_network_s(self):
        self.torchvision_agrees("alexnet", "fully_connected")


class BestEpoch(InFolder):
    def test_the_kept_model_is_that_of_the_least_validation_error(self):
        """A rate so high that errors jump up and down: some seed's best epoch is neither the first nor the last."""
        for seed in range(8):
            shutil.rmtree("runs", ignore_errors=True)
            run(PROGRAM, *DATA, "-f", "0.2", "--precision", "fp32", "--batch_size", "16", "-p", "resnet18", "-r", "last_only",
                "-n", "8", "--learning_rate", "0.05", "--lr_schedule", "constant", "--seed", seed, "-o", "best")
            table = pd.read_hdf("runs/best/run.h5", "epochs")
            best = table.sort_values(["validation_error", "validation_loss"]).iloc[0]
            if 1 < best.epoch < 8:
                break
        self.assertTrue(1 < best.epoch < 8, table)
        with h5py.File("runs/best/run.h5") as f:
            confusion, kept = f["confusion"][:], f["epochs"].attrs["kept_epoch"]
        self.assertAlmostEqual(1 - np.trace(confusion) / confusion.sum(), best.validation_error, places=9)
        self.assertEqual(kept, best.epoch)


class Interruptions(InFolder):
    ARGUMENTS = [*DATA, "-f", "0.1", "--precision", "fp32", "--learning_rate", "1e-5", "--batch_size", "16", "-p", "resnet18",
                 "-r", "all", "-n", "3", "--batch_norm", "frozen"]

    # Of which ranks have parts of the large layers, and of their moments.
    SPLIT = [*DATA, "-f", "0.1", "--precision", "fp32", "--learning_rate", "0.003", "--batch_size", "16", "-p", "alexnet", "-r",
             "fully_connected", "-n", "3"]

    def interrupted(self, name, ranks, after_s, arguments=ARGUMENTS, after_line="tiles to train on"):
        """@return whether the signal came in time"""
        words = common.command(PROGRAM, *arguments, "-o", name, ranks=ranks)
        with subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
            for line in process.stderr:
                if after_line in line:
                    break
            time.sleep(after_s)
            process.send_signal(signal.SIGUSR1)
            process.stderr.read()
        self.assertIn(process.returncode, (0, 75))
        return process.returncode == 75

    def epochs(self, name):
        return pd.read_hdf(f"runs/{name}/run.h5", "epochs")[LOSSES].to_numpy()

    def test_asked_to_stop_at_any_instant_it_goes_on_as_if_nothing_had_been(self):
        started = time.monotonic()
        run(PROGRAM, *self.ARGUMENTS, "-o", "whole", ranks=2)
        took_s = time.monotonic() - started
        instants = int(os.environ.get("QUADRAT_INSTANTS", "2"))
        chance = random.Random(1)
        stopped = 0
        for i in range(instants):
            name = f"asked{i}"
            stopped += self.interrupted(name, 2, chance.uniform(0.1, 0.7) * took_s)
            run(PROGRAM, *self.ARGUMENTS, "-o", name, ranks=2)
            np.testing.assert_array_equal(self.epochs(name), self.epochs("whole"))
            one, other = (load_file(f"runs/{n}/model.safetensors") for n in (name, "whole"))
            self.assertTrue(all(torch.equal(one[key], other[key]) for key in other))
        self.assertGreater(stopped, 0)

    def goes_on(self, arguments, *changes):
        run(PROGRAM, *arguments, "-o", "whole", ranks=1)
        for before, after in changes:
            name = f"from{before}to{after}"
            # Before the first epoch there may be features to compute, and nothing to go on with.
            self.assertTrue(self.interrupted(name, before, 0, arguments, after_line="epoch  1/"))
            # What any rank has of the moments is in the file, however small their effect on these losses is.
            moments = {key: tensor for key, tensor in load_file(f"runs/{name}/checkpoint.safetensors").items()
                       if key.startswith("optimizer.") and tensor.dim() > 1}
            self.assertTrue(moments)
            for key, tensor in moments.items():
                for part in tensor.flatten(1).abs().amax(1).chunk(4):
                    self.assertGreater(part.max(), 0, key)
            done = run(PROGRAM, *arguments, "-o", name, ranks=after)
            self.assertIn("going on with", done.stderr)
            # As between numbers of ranks.
            np.testing.assert_allclose(self.epochs(name), self.epochs("whole"), rtol=1e-4)

    def test_it_goes_on_with_another_number_of_ranks(self):
        self.goes_on(self.ARGUMENTS, (2, 4), (4, 1))

    def test_so_do_layers_that_are_split_over_ranks(self):
        self.goes_on(self.SPLIT, (2, 4), (4, 1))


if __name__ == "__main__":
    common.need_real_tiles()
    unittest.main(verbosity=2)
