#!/usr/bin/env python3
"""quadrat-finetune on a GPU beside the CPU: the same losses in float32, and a run that is gone on with."""
import os
import sys
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "jobs"))
import common
import h5py


def losses(runs, name):
    with h5py.File(os.path.join(runs, name, "run.h5")) as record:
        return record["epochs"]["train_loss"][:], record["epochs"]["validation_error"][:]


class OnGpu(unittest.TestCase):
    def train(self, folder, name, *options):
        common.run("quadrat-finetune", "--train", os.path.join(common.TILES, "train"), "--validation",
                   os.path.join(common.TILES, "validation"), "-p", "resnet18", "--runs", folder, "-o", name,
                   "--seed", 3, *options)

    def test_losses_of_20_steps_are_the_cpus(self):
        common.need_real_tiles()
        with common.tempfile.TemporaryDirectory() as folder:
            for retraining in ("all", "last_only"):
                for device in ("cpu", "cuda"):
                    self.train(folder, f"{retraining}_{device}", "-r", retraining, "-n", 5, "--precision", "fp32",
                               "--batch_norm", "frozen", "--learning_rate", 0.001, "--device", device)
                cpu, _ = losses(folder, f"{retraining}_cpu")
                cuda, _ = losses(folder, f"{retraining}_cuda")
                for one, other in zip(cpu, cuda):
                    self.assertAlmostEqual(one, other, delta=1e-3 * abs(one), msg=retraining)

    def test_bf16_with_the_samples_augmentation_learns(self):
        common.need_real_tiles()
        with common.tempfile.TemporaryDirectory() as folder:
            self.train(folder, "bf16", "-r", "all", "-n", 5, "--augment", "sample", "--device", "cuda")
            loss, _ = losses(folder, "bf16")
            self.assertLess(loss[-1], loss[0])


if __name__ == "__main__":
    unittest.main()
