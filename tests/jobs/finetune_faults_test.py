"""quadrat-finetune where things go wrong: nothing that was there is lost, and the line says what happened."""
import os
import resource
import shutil
import signal
import struct
import subprocess
import time
import unittest
import zlib

import h5py
import numpy as np
import pandas as pd
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file

import common
from common import TILES, InFolder, run

PROGRAM = "quadrat-finetune"
DATA = ["--train", f"{TILES}/train", "--validation", f"{TILES}/validation"]
SMALL = [*DATA, "-f", "0.1", "--batch_size", "16", "--precision", "fp32"]


def losses(name):
    return pd.read_hdf(f"runs/{name}/run.h5", "epochs")[["train_loss", "validation_loss"]].to_numpy()


def content(path):
    with open(path, "rb") as f:
        return f.read()


def errors_of(done):
    return [line for line in done.stderr.splitlines() if "error:" in line]


def png(path, samples, colour_type, bits):
    """A PNG of [H, W, channels] samples, written without the library that will read it."""
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    height, width = samples.shape[:2]
    rows = samples.astype(">u2" if bits == 16 else "u1").reshape(height, -1)
    raw = b"".join(b"\0" + row.tobytes() for row in rows)
    with open(path, "wb") as f:
        f.write(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour_type, 0, 0, 0))
                + chunk(b"IDAT", zlib.compress(raw, 1)) + chunk(b"IEND", b""))


class Faults(InFolder):
    def test_a_loss_that_becomes_no_number_keeps_the_last_good_model(self):
        arguments = [*SMALL, "-p", "resnet18", "-r", "last_only", "-n", "2000", "--lr_schedule", "constant",
                     "--learning_rate", "1e-5", "-o", "wild"]
        process = subprocess.Popen(common.command(PROGRAM, *arguments, ranks=2), stdout=subprocess.DEVNULL,
                                   stderr=subprocess.DEVNULL)
        checkpoint = "runs/wild/checkpoint.safetensors"
        while not os.path.exists(checkpoint):
            self.assertIsNone(process.poll())
            time.sleep(0.01)
        process.send_signal(signal.SIGUSR1)
        self.assertEqual(process.wait(), 75)
        good, epochs = content("runs/wild/model.safetensors"), len(losses("wild"))
        # One momentum so large that the next step leaves no finite weight.
        with safe_open(checkpoint, "pt") as f:
            tensors, metadata = {name: f.get_tensor(name) for name in f.keys()}, f.metadata()
        tensors["optimizer.0"] = torch.full_like(tensors["optimizer.0"], float("inf"))
        save_file(tensors, checkpoint, metadata)

        done = run(PROGRAM, *arguments, ranks=2, expect=2)
        self.assertEqual(len(errors_of(done)), 1, done.stderr)
        self.assertIn("no longer a finite number", done.stderr)
        self.assertRegex(done.stderr, r"the model of epoch \d+ is kept in 'runs/wild/model.safetensors'")
        self.assertEqual(content("runs/wild/model.safetensors"), good)
        self.assertEqual(len(losses("wild")), epochs)
        self.assertTrue(np.isfinite(losses("wild")).all())
        with h5py.File("runs/wild/run.h5") as f:
            self.assertEqual(f.attrs["status"].decode(), "failed")

    def start_and_stop(self, *arguments, when, ranks=None, by=signal.SIGUSR1, words=None):
        """@param when says whether it is time for the signal. @return the exit status"""
        process = subprocess.Popen(words or common.command(PROGRAM, *arguments, ranks=ranks), stdout=subprocess.DEVNULL,
                                   stderr=subprocess.PIPE, text=True)
        while not when():
            self.assertIsNone(process.poll())
            time.sleep(0.01)
        process.send_signal(by)
        self.stderr = process.communicate()[1]
        return process.returncode

    def test_other_tiles_are_not_gone_on_with(self):
        for folder in ("train", "validation"):
            shutil.copytree(f"{TILES}/{folder}", folder)
        arguments = ["--train", "train", "--validation", "validation", "-p", "resnet18", "-r", "last_only", "--views", "1",
                     "-n", "2000", "--precision", "fp32", "-o", "run"]
        there = "runs/run/checkpoint.safetensors"
        self.assertEqual(self.start_and_stop(*arguments, when=lambda: os.path.exists(there)), 75)
        for folder in ("train", "validation"):
            tile = sorted(os.listdir(f"{folder}/forest"))[0]
            os.rename(f"{folder}/forest/{tile}", "elsewhere.png")
            self.fails(2, "its tiles are not those that --train and --validation hold now", program=PROGRAM,
                       arguments=arguments, ranks=2)
            os.rename("elsewhere.png", f"{folder}/forest/{tile}")
        before = len(losses("run"))
        self.assertEqual(self.start_and_stop(*arguments, when=lambda: len(losses("run")) > before), 75)

    def test_a_rank_that_sees_no_checkpoint_goes_on_from_rank_0s(self):
        arguments = [*SMALL, "-p", "resnet18", "-r", "last_only", "-n", "2000", "-o", "run"]
        there = "runs/run/checkpoint.safetensors"
        self.assertEqual(self.start_and_stop(*arguments, ranks=2, when=lambda: os.path.exists(there)), 75)
        before = len(losses("run"))
        os.mkdir("other_host")
        one = common.command(PROGRAM, *arguments)
        words = ["mpirun", "-n", "1", *one, ":", "-n", "1", "-wdir", "other_host", *one]
        self.assertEqual(self.start_and_stop(words=words, when=lambda: len(losses("run")) > before + 1), 75)
        wanted = len(losses("run"))
        arguments[-1] = "whole"
        whole = "runs/whole/run.h5"
        self.start_and_stop(*arguments, ranks=2, when=lambda: os.path.exists(whole) and len(losses("whole")) >= wanted)
        np.testing.assert_array_equal(losses("run"), losses("whole")[:wanted])

    def test_features_being_computed_stop_for_a_signal(self):
        def processor_seconds(work):
            before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
            work()
            return resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before
        arguments = [*DATA, "-p", "alexnet", "-r", "last_only", "--precision", "fp32"]
        once = processor_seconds(lambda: run(PROGRAM, *arguments, "--views", "1", "-n", "1", "-o", "once", ranks=2))
        # 27 times as many tiles are computed on, if none of that is left out.
        arguments += ["--views", "40", "-n", "40", "-o", "run"]
        status = []
        stopped = processor_seconds(lambda: status.append(self.start_and_stop(
            *arguments, ranks=2, when=lambda: os.path.exists("runs/run/run.h5"))))
        self.assertEqual(status, [75])
        self.assertLess(stopped, 3 * once)
        self.assertFalse(os.path.exists("runs/run/checkpoint.safetensors"))
        with h5py.File("runs/run/run.h5") as f:
            self.assertEqual(f.attrs["status"].decode(), "interrupted")
            self.assertEqual(len(f["epochs"]), 0)

    def test_a_run_goes_on_in_the_precision_it_began_in(self):
        arguments = [*DATA, "-f", "0.1", "--batch_size", "16", "-p", "resnet18", "-r", "last_only", "-n", "2000", "-o", "run"]
        there = "runs/run/checkpoint.safetensors"
        self.assertEqual(self.start_and_stop(*arguments, when=lambda: os.path.exists(there)), 75)
        with h5py.File("runs/run/run.h5", "a") as f:
            auto = f["environment"].attrs["precision"].decode()
            other = {"bf16": "fp32", "fp32": "bf16"}[auto]
            f["environment"].attrs["precision"] = np.bytes_(other)
        before = len(losses("run"))
        self.assertEqual(self.start_and_stop(*arguments, when=lambda: len(losses("run")) > before), 75)
        self.assertIn(f", {other}\n", self.stderr)
        with h5py.File("runs/run/run.h5") as f:
            self.assertEqual(f["environment"].attrs["precision"].decode(), other)
            self.assertEqual(f["config"].attrs["precision"].decode(), "auto")

    def test_a_record_speaks_of_the_model_that_is_there(self):
        # Saving AlexNet takes longer than these epochs do: the first are not saved.
        arguments = [*SMALL, "-p", "alexnet", "-r", "fully_connected", "-n", "2000", "-o", "run"]
        record = "runs/run/run.h5"
        self.start_and_stop(*arguments, when=lambda: os.path.exists(record) and len(losses("run")) > 0, by=signal.SIGKILL)
        with h5py.File(record) as f:
            kept = f["epochs"].attrs["kept_epoch"]
            self.assertEqual(kept > 0, os.path.exists("runs/run/model.safetensors"))
            self.assertEqual(kept > 0, os.path.exists("runs/run/predictions_validation.csv"))
            self.assertEqual(kept > 0, len(f["predictions/validation"]) > 0)

    def test_fewer_tiles_than_shards_are_refused_once(self):
        self.fails(1, "shards", program=PROGRAM, ranks=3,
                   arguments=[*DATA, "-f", "0.1", "--batch_size", "64", "--shards", "64", "-p", "resnet18", "-r", "last_only",
                              "-o", "run"])

    def test_a_validation_loss_that_is_no_number_keeps_no_model(self):
        # A single step, after which nothing is finite; its own loss still was.
        done = run(PROGRAM, *DATA, "-f", "0.1", "--precision", "fp32", "--batch_size", "64", "-p", "resnet18", "-r",
                   "last_only", "-n", "2", "--learning_rate", "1e38", "-o", "wild", expect=2)
        self.assertIn("no model was kept", done.stderr)
        self.assertFalse(os.path.exists("runs/wild/model.safetensors"))

    def test_a_full_disk_loses_nothing(self):
        # A file system of 110 MB in a mount namespace of our own: one epoch's files fit, not their replacement.
        arguments = " ".join(common.command(PROGRAM, *SMALL, "-p", "resnet18", "-r", "last_only", "-n", "3"))
        script = f"""set -e
            mkdir runs kept
            mount -t tmpfs -o size=110m tmpfs runs
            status=0; {arguments} -o full 2>kept/error || status=$?
            cp -r runs/full kept/then
            mount -o remount,size=500m runs
            {arguments} -o full
            cp -r runs/full kept/end
            exit $status"""
        done = subprocess.run(["unshare", "--map-root-user", "--mount", "bash", "-c", script], capture_output=True, text=True)
        if "Operation not permitted" in done.stderr and os.environ.get("CI") != "true":
            self.skipTest("no mount namespaces here")
        self.assertEqual(done.returncode, 2, done.stderr)
        with open("kept/error") as f:
            errors = [line for line in f if "error:" in line]
        self.assertEqual(len(errors), 1)
        self.assertIn("No space left on device", errors[0])
        self.assertIn(".safetensors", errors[0])
        # What was there is whole, and the run went on from it.
        for name in ("model", "checkpoint"):
            with safe_open(f"kept/then/{name}.safetensors", "pt") as f:
                for key in f.keys():
                    f.get_tensor(key)
        before, after = (pd.read_hdf(f"kept/{name}/run.h5", "epochs") for name in ("then", "end"))
        self.assertGreaterEqual(len(before), 1)
        self.assertEqual(len(after), 3)
        self.assertIn("going on with", done.stderr)
        run(PROGRAM, *SMALL, "-p", "resnet18", "-r", "last_only", "-n", "3", "-o", "whole")
        np.testing.assert_array_equal(after[["train_loss", "validation_loss"]], losses("whole"))

    def test_a_class_with_fewer_tiles_than_shards(self):
        shutil.copytree(f"{TILES}/train", "train")
        for tile in sorted(os.listdir("train/forest"))[3:]:
            os.remove(f"train/forest/{tile}")
        arguments = ["--train", "train", "--validation", f"{TILES}/validation", "-p", "resnet18", "-r", "last_only", "--views",
                     "1", "-n", "2", "--precision", "fp32", "--learning_rate", "1e-5"]
        for ranks in (1, 4):
            run(PROGRAM, *arguments, "-o", f"r{ranks}", ranks=ranks)
        np.testing.assert_allclose(losses("r4"), losses("r1"), rtol=2e-5)

    def test_tiles_of_other_kinds_are_read_by_the_written_rule(self):
        """16 bits: the high byte; alpha: dropped; grey: three times (include/quadrat/image/png.h)."""
        noise = np.random.default_rng(1)
        for folder in ("plain", "other"):
            for label in os.listdir(f"{TILES}/train"):
                os.makedirs(f"{folder}/{label}")
        for label in os.listdir(f"{TILES}/train"):
            for i, tile in enumerate(sorted(os.listdir(f"{TILES}/train/{label}"))[:4]):
                rgb = np.asarray(Image.open(f"{TILES}/train/{label}/{tile}"))
                if i == 3:
                    rgb = np.repeat(rgb[:, :, :1], 3, 2)
                Image.fromarray(rgb).save(f"plain/{label}/{tile}")
                wide = rgb.astype(np.uint16) * 256 + noise.integers(0, 256, rgb.shape)
                alpha = noise.integers(0, 256, (*rgb.shape[:2], 1))
                png(f"other/{label}/{tile}", *((wide, 2, 16), (np.concatenate([rgb, alpha], 2), 6, 8),
                                               (np.concatenate([wide, alpha * 256], 2), 6, 16), (rgb[:, :, :1], 0, 8))[i])
        for folder in ("plain", "other"):
            run(PROGRAM, "--train", folder, "--validation", "plain", "-p", "resnet18", "-r", "last_only",
                "-n", "1", "--precision", "fp32", "--batch_size", "16", "-o", folder)
        np.testing.assert_array_equal(losses("other"), losses("plain"))


if __name__ == "__main__":
    common.need_real_tiles()
    unittest.main(verbosity=2)
