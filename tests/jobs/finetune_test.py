"""quadrat-finetune as its users meet it: files, equalities over ranks, interruptions, bad input."""
import csv
import json
import os
import shutil
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
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import common
from common import TILES, InFolder, run

PROGRAM = "quadrat-finetune"
CLASSES = sorted(os.listdir(os.path.join(TILES, "train"))) if os.path.isdir(TILES) else []
DATA = ["--train", f"{TILES}/train", "--validation", f"{TILES}/validation"]
# 24 and 12 tiles: two steps an epoch.
SMALL = [*DATA, "-f", "0.1", "--batch_size", "16", "--precision", "fp32"]


def text(value):
    """Fixed-length strings, as the contract has them, are bytes in h5py."""
    return value.decode()


def epochs(name):
    return pd.read_hdf(f"runs/{name}/run.h5", "epochs")


class Files(InFolder):
    def test_a_run_leaves_what_the_contract_says(self):
        done = run(PROGRAM, *SMALL, "-p", "resnet18", "-r", "all", "-n", "2", "-o", "one", ranks=2)
        self.assertIn("validation error", done.stdout)
        self.assertIn("random initialisation", done.stderr)
        self.assertEqual(sorted(os.listdir("runs/one")), ["labels_to_inds.tsv", "model.info", "model.safetensors",
                                                          "predictions_validation.csv", "run.h5"])
        with open("runs/one/labels_to_inds.tsv") as f:
            rows = list(csv.reader(f, delimiter="\t"))
        self.assertEqual(rows, [["label", "idx"], *([c, str(i)] for i, c in enumerate(CLASSES))])
        with open("runs/one/model.info") as f:
            info = dict(csv.reader(f))
        self.assertEqual(info, {"output_model_name": "one", "model_source": "finetune",
                                "pretrained_model_type": "resnet18", "retraining_type": "all"})

        with h5py.File("runs/one/run.h5") as f:
            self.assertEqual(text(f.attrs["schema"]), "quadrat-run")
            self.assertEqual(f.attrs["schema_version"], 1)
            self.assertEqual(text(f.attrs["status"]), "complete")
            self.assertEqual(f["config"].attrs["num_epochs"], 2)
            self.assertEqual(text(f["config"].attrs["retraining_type"]), "all")
            self.assertEqual(f["environment"].attrs["ranks"], 2)
            self.assertEqual([c.decode() for c in f["classes"][:]], CLASSES)
            table = f["predictions/validation"][:]
            confusion = f["confusion"][:]
        frame = epochs("one")
        self.assertEqual(list(frame.epoch), [1, 2])
        self.assertTrue(np.isfinite(frame.to_numpy(dtype=float)).all())
        kept = frame.validation_error.min()
        self.assertAlmostEqual(1 - np.trace(confusion) / confusion.sum(), kept, places=12)
        self.assertAlmostEqual((table["label"] != table["predicted"]).mean(), kept, places=12)
        dump = subprocess.run(["h5dump", "-d", "/epochs", "runs/one/run.h5"], capture_output=True, text=True)
        self.assertEqual(dump.returncode, 0, dump.stderr)
        self.assertIn("validation_error", dump.stdout)

        # torchvision, given the same file, says the same of the same tiles.
        with safe_open("runs/one/model.safetensors", "pt") as f:
            card = f.metadata()
        self.assertEqual(json.loads(card["classes"]), CLASSES)
        self.assertEqual((card["architecture"], card["tile_px"], card["retraining_type"]), ("resnet18", "224", "all"))
        model = torchvision.models.resnet18(num_classes=len(CLASSES))
        model.load_state_dict(load_file("runs/one/model.safetensors"))
        model.eval()
        mean, std = (torch.tensor(json.loads(card[k])).view(3, 1, 1) for k in ("mean", "std"))
        tiles = [t.decode() for t in table["tile"]]
        pixels = [np.asarray(Image.open(f"{TILES}/validation/{t}")) for t in tiles]
        x = torch.stack([(torch.from_numpy(p.copy()).permute(2, 0, 1) / 255 - mean) / std for p in pixels])
        with torch.no_grad():
            probabilities = torch.softmax(model(x), 1).numpy()
        ours = np.stack([table[f"p_{c}"] for c in CLASSES], 1)
        np.testing.assert_allclose(ours, probabilities, atol=2e-5)
        with open("runs/one/predictions_validation.csv") as f:
            predictions = list(csv.DictReader(f))
        self.assertEqual([p["filename"] for p in predictions], tiles)
        self.assertEqual([p["pred_label"] for p in predictions], [CLASSES[i] for i in table["predicted"]])

        again = run(PROGRAM, *SMALL, "-p", "resnet18", "-r", "all", "-n", "2", "-o", "one", ranks=1)
        self.assertIn("is complete", again.stdout)

    def test_the_record_is_readable_while_the_run_goes_on(self):
        words = common.command(PROGRAM, *SMALL, "-p", "resnet18", "-r", "all", "-n", "4", "-o", "live", ranks=2)
        seen = set()
        with subprocess.Popen(words, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as process:
            while process.poll() is None:
                if os.path.exists("runs/live/run.h5"):
                    with h5py.File("runs/live/run.h5") as f:
                        seen.add((text(f.attrs["status"]), len(f["epochs"])))
                    if len(epochs("live")) > 0:
                        seen.add("pandas")
                time.sleep(0.02)
        self.assertEqual(process.returncode, 0)
        self.assertIn(("running", 2), seen)
        self.assertIn("pandas", seen)

    def test_options_come_from_a_file_too(self):
        with open("run.ini", "w") as f:
            f.write(f"train = {TILES}/train\nvalidation = {TILES}/validation\nsample-frac = 0.1\n"
                    "pretrained_model_type = resnet18\nretraining_type = last_only\noutput_model_name = file\n"
                    "num_epochs = 3\n")
        run(PROGRAM, "-c", "run.ini", "-n", "1", ranks=1)
        self.assertEqual(len(epochs("file")), 1)


class Ranks(InFolder):
    """Virtual shards: any number of ranks computes the same training."""

    def losses(self, ranks, *arguments):
        name = f"r{ranks}"
        run(PROGRAM, *SMALL, *arguments, "-n", "2", "-o", name, ranks=ranks)
        return epochs(name)[["train_loss", "validation_loss"]].to_numpy()

    def same_on_1_2_4(self, *arguments):
        one = self.losses(1, *arguments)
        for ranks in (2, 4):
            # Gradients are summed in another order: 24 bits, some 10^4 terms, amplified over 4 steps.
            np.testing.assert_allclose(self.losses(ranks, *arguments), one, rtol=1e-4)

    def test_alexnet_all_with_dropout(self):
        self.same_on_1_2_4("-p", "alexnet", "-r", "all")

    def test_alexnet_fully_connected(self):
        self.same_on_1_2_4("-p", "alexnet", "-r", "fully_connected")

    def test_resnet18_with_frozen_batch_norm(self):
        self.same_on_1_2_4("-p", "resnet18", "-r", "all", "--batch_norm", "frozen", "--learning_rate", "1e-4")

    def test_resnet18_with_synchronised_batch_norm(self):
        self.same_on_1_2_4("-p", "resnet18", "-r", "all", "--batch_norm", "sync", "--learning_rate", "1e-4")

    def test_resnet18_last_only(self):
        self.same_on_1_2_4("-p", "resnet18", "-r", "last_only", "--views", "2")


class Interruptions(InFolder):
    ARGUMENTS = [*SMALL, "-p", "resnet18", "-r", "all", "-n", "4", "--optimizer", "adamw"]

    def equal_runs(self, a, b):
        for column in ("train_loss", "train_error", "validation_loss", "validation_error", "learning_rate"):
            np.testing.assert_array_equal(epochs(a)[column], epochs(b)[column], err_msg=column)
        first, second = (load_file(f"runs/{n}/model.safetensors") for n in (a, b))
        for name, tensor in first.items():
            self.assertTrue(torch.equal(tensor, second[name]), name)
        with h5py.File(f"runs/{a}/run.h5") as f, h5py.File(f"runs/{b}/run.h5") as g:
            np.testing.assert_array_equal(f["predictions/validation"][:], g["predictions/validation"][:])

    def interrupted(self, name, sign, after_s, arguments=None):
        words = common.command(PROGRAM, *(arguments or self.ARGUMENTS), "-o", name, ranks=2)
        process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
        while not os.path.exists(f"runs/{name}/checkpoint.safetensors"):
            self.assertIsNone(process.poll())
            time.sleep(0.01)
        time.sleep(after_s)
        if sign == signal.SIGKILL:
            os.killpg(process.pid, sign)  # mpirun and, as they share its session, the ranks
            subprocess.run(["pkill", "-KILL", "-s", str(process.pid)], check=False)
        else:
            process.send_signal(sign)  # mpirun passes SIGUSR1 on
        return process.wait()

    def test_a_resumed_run_equals_an_uninterrupted_one(self):
        run(PROGRAM, *self.ARGUMENTS, "-o", "whole", ranks=2)
        for i, after_s in enumerate((0.0, 0.7)):
            name = f"killed{i}"
            self.interrupted(name, signal.SIGKILL, after_s)
            run(PROGRAM, *self.ARGUMENTS, "-o", name, ranks=2)
            self.equal_runs("whole", name)
            self.assertFalse([f for f in os.listdir(f"runs/{name}") if f.startswith(".")])

        status = self.interrupted("asked", signal.SIGUSR1, 0.3)
        self.assertEqual(status, 75)
        with h5py.File("runs/asked/run.h5") as f:
            self.assertEqual(text(f.attrs["status"]), "interrupted")
        # A checkpoint with probabilities of other tiles than it was validated on.
        checkpoint = "runs/asked/checkpoint.safetensors"
        with safe_open(checkpoint, "pt") as f:
            metadata = f.metadata()
        tensors = load_file(checkpoint)
        shutil.copy(checkpoint, "kept")
        save_file({**tensors, "kept.probabilities": tensors["kept.probabilities"][:5].clone()}, checkpoint, metadata)
        self.fails(2, "with 5 probabilities", program=PROGRAM, arguments=[*self.ARGUMENTS, "-o", "asked"], ranks=2)
        os.rename("kept", checkpoint)
        run(PROGRAM, *self.ARGUMENTS, "-o", "asked", ranks=2)
        self.equal_runs("whole", "asked")
        os.remove("runs/asked/model.safetensors")
        self.fails(2, "its record says complete, but 'model.safetensors' is gone", program=PROGRAM,
                   arguments=[*self.ARGUMENTS, "-o", "asked"], ranks=2)

    def test_short_epochs_are_not_all_written_down_and_a_kill_costs_none_of_them(self):
        # 0.7 GB of model and checkpoint after epochs of some 0.2 s: the first time after 7 s.
        arguments = [*SMALL, "-p", "alexnet", "-r", "fully_connected", "-n", "60", "--optimizer", "sgd"]
        words = common.command(PROGRAM, *arguments, "-o", "whole", ranks=2)
        process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        checkpoints, trained = set(), 0  # epochs before the first
        while process.poll() is None:
            try:
                checkpoints.add(os.stat("runs/whole/checkpoint.safetensors").st_mtime_ns)
                trained = trained or len(epochs("whole"))
            except FileNotFoundError:
                pass
            time.sleep(0.005)
        self.assertEqual(process.wait(), 0, process.stderr.read())
        process.stderr.close()
        self.assertIn(len(checkpoints), range(1, 15))
        self.assertGreater(trained, 1)
        self.assertEqual(len(epochs("whole")), 60)
        self.interrupted("killed", signal.SIGKILL, 2, arguments)
        run(PROGRAM, *arguments, "-o", "killed", ranks=2)
        self.equal_runs("whole", "killed")

    def test_a_second_start_beside_a_running_one_is_refused(self):
        words = common.command(PROGRAM, *self.ARGUMENTS, "-o", "first", ranks=2)
        first = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
        # The lock has a name in it once it is held; before that the file only exists.
        while not os.path.exists("runs/first/.lock") or os.path.getsize("runs/first/.lock") == 0:
            self.assertIsNone(first.poll())
            time.sleep(0.01)
        # As long as the second asks, the first must not come to its end.
        subprocess.run(["pkill", "-STOP", "-s", str(first.pid)], check=True)
        # Of a rank's threads one takes SIGINT, SIGUSR1 and SIGTERM, and it computes nothing: see src/base/signals.cpp.
        with open(f"/proc/{first.pid}/task/{first.pid}/children") as f:
            ranks = f.read().split()
        self.assertEqual(len(ranks), 2)
        for rank in ranks:
            blocked = {}
            for task in os.listdir(f"/proc/{rank}/task"):
                with open(f"/proc/{rank}/task/{task}/status") as f:
                    mask = next(line for line in f if line.startswith("SigBlk:")).split()[1]
                blocked[task] = int(mask, 16) & 0x4202
            self.assertEqual(blocked[rank], 0x4202)
            self.assertEqual([mask for mask in blocked.values() if mask != 0x4202], [0], blocked)
        self.fails(2, "runs/first", "in use by process", program=PROGRAM, arguments=[*self.ARGUMENTS, "-o", "first"])
        subprocess.run(["pkill", "-CONT", "-s", str(first.pid)], check=True)
        self.assertEqual(first.wait(), 0)

    def test_other_settings_under_the_same_name_are_refused(self):
        arguments = [*SMALL, "-p", "resnet18", "-r", "last_only", "-n", "1", "-o", "mine"]
        run(PROGRAM, *arguments)
        before = open("runs/mine/run.h5", "rb").read()
        self.fails(2, "other settings", "--seed was '0' and is '3'", program=PROGRAM,
                   arguments=[*arguments, "--seed", "3"])
        self.assertEqual(open("runs/mine/run.h5", "rb").read(), before)


class BadInput(InFolder):
    GOOD = [*DATA, "-p", "resnet18", "-r", "all", "-o", "x", "-n", "1"]

    def bad(self, status, *parts, change=(), remove=()):
        arguments = list(self.GOOD)
        for name in remove:
            at = arguments.index(name)
            del arguments[at:at + 2]
        self.fails(status, *parts, program=PROGRAM, arguments=[*arguments, *change])
        self.assertFalse(os.path.exists("runs"), "work was begun")

    def test_usage(self):
        self.bad(1, "--train is missing", remove=["--train"])
        self.bad(1, "'--num_epoch'", "--num_epochs", change=["--num_epoch", "3"])
        self.bad(1, "--num_epochs is 0", remove=["-n"], change=["-n", "0"])
        self.bad(1, "resnet", remove=["-r"], change=["-r", "fully_connected"])
        self.bad(1, "vgg", "alexnet and resnet18", remove=["-p"], change=["-p", "vgg"])
        self.bad(1, "a/b", "letters", remove=["-o"], change=["-o", "a/b"])
        self.bad(1, "--batch_size is 30", "--shards (16)", change=["--batch_size", "30"])
        self.bad(1, "--sample_frac is 0", change=["-f", "0"])
        self.bad(1, "--seed is 'many', but must be a whole number", change=["--seed", "many"])
        for rate in "nan", "inf", "-1":
            self.bad(1, "--learning_rate is", change=["--learning_rate", rate])
        self.bad(2, "'nowhere': it is no folder on host", change=["--scratch", "nowhere"])

    def test_more_ranks_than_shards(self):
        self.fails(1, "2 ranks for 1 shards", program=PROGRAM,
                   arguments=[*self.GOOD, "--shards", "1"], ranks=2)

    def test_fewer_tiles_than_shards(self):
        self.bad(1, "6 training tiles for 16 shards", change=["-f", "0.001"])

    def test_folders(self):
        self.bad(2, "nowhere", "no such folder", remove=["--train"], change=["--train", "nowhere"])
        os.makedirs("flat")
        self.bad(2, "flat", "no class folder", remove=["--train"], change=["--train", "flat"])
        shutil.copytree(f"{TILES}/validation", "fewer")
        shutil.rmtree("fewer/forest")
        self.bad(2, "same class folders", "forest", remove=["--validation"], change=["--validation", "fewer"])
        os.makedirs("fewer/forest")
        self.bad(2, "fewer/forest", "no .png", remove=["--validation"], change=["--validation", "fewer"])
        os.rename("fewer/forest", "fewer/for est")
        self.bad(2, "for est", "letters", remove=["--validation"], change=["--validation", "fewer"])

    def test_a_file_is_in_the_way_of_the_run(self):
        os.makedirs("runs")
        with open("runs/x", "w") as f:
            f.write("mine")
        self.fails(2, "runs/x", "in the way", program=PROGRAM, arguments=self.GOOD)
        self.assertEqual(open("runs/x").read(), "mine")

    def test_a_foreign_record_is_in_the_way(self):
        os.makedirs("runs/x")
        with open("runs/x/run.h5", "w") as f:
            f.write("not HDF5")
        self.fails(2, "runs/x/run.h5", program=PROGRAM, arguments=self.GOOD)
        self.assertEqual(open("runs/x/run.h5").read(), "not HDF5")

    def test_tiles_that_cannot_be_used_are_named(self):
        shutil.copytree(f"{TILES}/train", "train")
        tile = sorted(os.listdir("train/forest"))[0]
        good = open(f"train/forest/{tile}", "rb").read()
        arguments = ["--train", "train", "--validation", f"{TILES}/validation", "-p", "resnet18", "-r", "last_only",
                     "-n", "1"]
        small = Image.new("RGB", (100, 100))
        for i, (make, part) in enumerate([
                (lambda path: open(path, "wb").write(good[:len(good) // 2]), "train/forest"),
                (lambda path: open(path, "wb").write(b""), "train/forest"),
                (lambda path: open(path, "wb").write(b"GIF89a, no PNG at all"), "train/forest"),
                (small.save, "100")]):
            make(f"train/forest/{tile}")
            done = run(PROGRAM, *arguments, "-o", f"bad{i}", expect=2)
            errors = [line for line in done.stderr.splitlines() if "error:" in line]
            self.assertEqual(len(errors), 1, done.stderr)
            self.assertIn(f"train/forest/{tile}", errors[0])
            self.assertIn(part, errors[0])

    def test_weights_that_cannot_be_used(self):
        torch.save(torchvision.models.alexnet(weights=None).state_dict(), "alexnet.pth")
        with open("cut.pth", "wb") as f:
            f.write(open("alexnet.pth", "rb").read(100000))
        for name, part in (("alexnet.pth", "resnet18 needs"), ("cut.pth", "cut.pth"), ("none.pth", "No such file")):
            done = run(PROGRAM, *self.GOOD, "--pretrained_weights", name, expect=2)
            errors = [line for line in done.stderr.splitlines() if "error:" in line]
            self.assertEqual(len(errors), 1, done.stderr)
            self.assertIn(name, errors[0])
            self.assertIn(part, errors[0])

    def test_a_loss_that_is_no_number_stops_the_run_and_keeps_the_record(self):
        done = run(PROGRAM, *SMALL, "-p", "alexnet", "-r", "all", "-n", "4", "-o", "wild", "--learning_rate", "1e6",
                   ranks=2, expect=2)
        self.assertEqual(done.stderr.count("no longer a finite number"), 1, done.stderr)
        with h5py.File("runs/wild/run.h5") as f:
            self.assertEqual(text(f.attrs["status"]), "failed")

    def test_a_run_that_ends_with_an_error_says_so_in_its_record(self):
        shutil.copytree(f"{TILES}/validation", "tiles")
        tile = os.path.join("tiles", "beach", sorted(os.listdir("tiles/beach"))[15])
        os.truncate(tile, 1000)
        done = run(PROGRAM, "--train", "tiles", "--validation", f"{TILES}/validation", "-p", "resnet18", "-r", "last_only",
                   "-n", "1", "-o", "cut", expect=2)
        self.assertIn(tile, done.stderr)
        with h5py.File("runs/cut/run.h5") as f:
            self.assertEqual(text(f.attrs["status"]), "failed")
            self.assertIn("label", f["predictions/validation"].dtype.names)

    def test_tiles_of_another_size_are_refused_before_any_work(self):
        for folder in sorted(os.listdir(f"{TILES}/validation")):
            os.makedirs(f"small/{folder}")
            Image.new("RGB", (96, 96)).save(f"small/{folder}/a.png")
        self.bad(2, "small", "is 96x96 px, and the networks take 224x224 px", remove=["--validation"],
                 change=["--validation", "small"])

    def test_bf16_where_no_cpu_multiplies_it_is_warned_of(self):
        start = [*DATA, "-f", "0.1", "-p", "resnet18", "-r", "last_only", "-n", "1"]
        for precision, warns in (("bf16", True), ("auto", False)):
            done = run(PROGRAM, *start, "--precision", precision, "-o", precision, env={**os.environ, "QUADRAT_NO_AVX512": "1"})
            self.assertEqual("--precision fp32 is quicker many times over" in done.stderr, warns, done.stderr)

    def test_help_never_starts_mpi(self):
        done = run(PROGRAM, "--help", env={"PATH": "/usr/bin", "OMPI_MCA_btl": "nonsense"})
        self.assertIn("--pretrained_model_type", done.stdout)


if __name__ == "__main__":
    common.need_real_tiles()
    unittest.main(verbosity=2)
