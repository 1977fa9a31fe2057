"""quadrat-fit as its users meet it: equal to scikit-learn, over ranks, kept features, scoring, bad input."""
import csv
import os
import signal
import subprocess
import time
import unittest

import h5py
import numpy as np
import pandas as pd
import torch
import torchvision
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.preprocessing import StandardScaler

import common
from common import TILES, InFolder, run

PROGRAM = "quadrat-fit"
DATA = ["--train", f"{TILES}/train", "--validation", f"{TILES}/validation", "-p", "resnet18", "--features", "features.h5"]
LINEAR = [*DATA, "-m", "logistic_regression"]
FOREST = [*DATA, "-m", "random_forest"]
L2 = 0.01


def features(name):
    with h5py.File("features.h5") as f:
        return f[name]["features"][:].astype(np.float64), f[name]["tiles"]["label"]


def metadata(name):
    with safe_open(f"runs/{name}/model.safetensors", "pt") as f:
        return f.metadata()


def environment(name):
    with h5py.File(f"runs/{name}/run.h5") as f:
        return dict(f["environment"].attrs)


def predictions(name):
    table = pd.read_hdf(f"runs/{name}/run.h5", "predictions/validation")
    return table[[c for c in table if c.startswith("p_")]].to_numpy(), table["predicted"].to_numpy()


class Fit(InFolder):
    def test_logistic_regression_is_the_optimum_that_scikit_learn_finds_on_any_number_of_ranks(self):
        first = run(PROGRAM, *LINEAR, "-o", "on1", ranks=1)
        self.assertIn("randomly initialised", first.stderr)
        for ranks in 2, 4:
            done = run(PROGRAM, *LINEAR, "-o", f"on{ranks}", ranks=ranks)
            self.assertIn("used again", done.stderr)
        x, y = features("train")
        self.assertEqual(x.shape, (240, 512))
        scaler = StandardScaler().fit(x)
        varies = x.std(0) > 1e-7 * np.abs(x.mean(0))
        z = scaler.transform(x)[:, varies]
        peer = LogisticRegression(C=1 / (len(y) * L2), tol=1e-8, max_iter=10000).fit(z, y)
        objective = log_loss(y, peer.predict_proba(z)) + L2 / 2 * np.sum(peer.coef_ ** 2)
        for ranks in 1, 2, 4:
            weights = load_file(f"runs/on{ranks}/model.safetensors")
            coefficients = weights["fc.weight"].double().numpy() * x.std(0)
            intercepts = weights["fc.bias"].double().numpy() + weights["fc.weight"].double().numpy() @ x.mean(0)
            self.assertLess(np.abs(coefficients[:, varies] - peer.coef_).max(), 1e-3)
            self.assertEqual(np.abs(coefficients[:, ~varies]).sum(), 0)
            self.assertLess(np.abs(intercepts - intercepts.mean() - peer.intercept_ + peer.intercept_.mean()).max(), 1e-3)
            self.assertLess(abs(float(environment(f"on{ranks}")["objective"]) - objective), 1e-3 * objective)
            row = pd.read_hdf(f"runs/on{ranks}/run.h5", "epochs").iloc[0]
            self.assertLess(abs(row.train_loss - log_loss(y, peer.predict_proba(z))), 1e-3)

        # As torchvision would load it.
        network = torchvision.models.resnet18(num_classes=6)
        network.load_state_dict(load_file("runs/on1/model.safetensors"))
        with open("runs/on1/model.info") as f:
            self.assertEqual(dict(csv.reader(f)), {"output_model_name": "on1", "model_source": "fit",
                                                   "pretrained_model_type": "resnet18", "classifier": "logistic_regression"})
        self.assertEqual(metadata("on1")["classifier"], "logistic_regression")
        self.assertEqual(sorted(os.listdir("runs/on1")), ["labels_to_inds.tsv", "model.info", "model.safetensors",
                                                          "predictions_validation.csv", "run.h5"])

    def test_a_forest_does_not_depend_on_ranks_and_is_as_good_as_scikit_learns(self):
        seeds = range(3)
        for seed in seeds:
            run(PROGRAM, *FOREST, "--seed", seed, "--pretrained_weights", self.weights(), "-o", f"seed{seed}", ranks=1 + seed % 2)
        run(PROGRAM, *FOREST, "--seed", 2, "--pretrained_weights", self.weights(), "-o", "again", ranks=3)
        with open("runs/seed2/model.safetensors", "rb") as one, open("runs/again/model.safetensors", "rb") as other:
            self.assertEqual(one.read(), other.read())

        x, y = features("train")
        u, v = features("validation")
        mine = [np.mean(predictions(f"seed{seed}")[1] == v) for seed in seeds]
        peers = [RandomForestClassifier(20, max_depth=5, random_state=seed).fit(x, y).score(u, v) for seed in range(10)]
        # tools/bench/fit compares ten seeds; three are within what chance makes of 120 tiles.
        self.assertLess(abs(np.mean(mine) - np.mean(peers)), 0.05)
        self.assertGreater(len({tuple(predictions(f"seed{seed}")[1]) for seed in seeds}), 1)

        # The trees as tensors, walked here.
        model = {k: t.numpy() for k, t in load_file("runs/seed0/model.safetensors").items() if k.startswith("forest.")}
        self.assertEqual(len(model["forest.roots"]), 20)
        shares = np.zeros((len(u), 6))
        for root in model["forest.roots"]:
            for row, values in enumerate(u.astype(np.float32)):
                node, depth = root, 0
                while model["forest.feature"][node] >= 0:
                    left = values[model["forest.feature"][node]] <= model["forest.threshold"][node]
                    node, depth = model["forest.left" if left else "forest.right"][node], depth + 1
                self.assertLessEqual(depth, 5)
                shares[row] += model["forest.fractions"][node] / 20
        np.testing.assert_allclose(predictions("seed0")[0], shares, atol=1e-6)

        # Scored by the whole pipeline, it says the same; the trunk is torchvision's.
        with h5py.File("runs/seed0/run.h5") as f:
            precision = f["environment"].attrs["precision"].decode()
        run("quadrat-score", "--tiles", f"{TILES}/validation", "-o", "seed0", "--precision", precision, ranks=2)
        self.same_as_scored("seed0", atol=1e-6)
        network = torchvision.models.resnet18(num_classes=6)
        missing = network.load_state_dict(load_file("runs/seed0/model.safetensors"), strict=False).missing_keys
        self.assertEqual(missing, ["fc.weight", "fc.bias"])
        run("quadrat-report", "--run", "seed0", "--scores", "seed0", "--output", "report")
        self.assertTrue(os.path.exists("report/index.html"))

    def same_as_scored(self, name, atol):
        scores = pd.read_hdf(f"scores/{name}/scores.h5", "predictions").set_index("tile")
        fitted = pd.read_hdf(f"runs/{name}/run.h5", "predictions/validation").set_index("tile")
        columns = [c for c in fitted if c.startswith("p_")]
        np.testing.assert_allclose(scores.loc[fitted.index, columns], fitted[columns], atol=atol)

    def weights(self):
        """Weights that do not follow --seed, so that only the forest does."""
        if not os.path.exists("weights.safetensors"):
            torch.manual_seed(0)
            save_file(torchvision.models.resnet18().state_dict(), "weights.safetensors")
        return "weights.safetensors"

    def test_alexnet_is_scored_as_it_was_fitted(self):
        small = ["--train", f"{TILES}/train", "--validation", f"{TILES}/validation", "-f", "0.1", "-p", "alexnet"]
        run(PROGRAM, *small, "--mmlspark_model_type", "logisticregression", "--precision", "fp32", "-o", "alex", ranks=2)
        with h5py.File("runs/alex/run.h5") as f:
            self.assertEqual(f["config"].attrs["classifier"], b"logistic_regression")
            self.assertEqual(len(f["predictions/validation"]), 12)
        torchvision.models.alexnet(num_classes=6).load_state_dict(load_file("runs/alex/model.safetensors"))
        run("quadrat-score", "--tiles", f"{TILES}/validation", "-o", "alex", "--precision", "fp32")
        self.same_as_scored("alex", atol=1e-4)

    def test_a_complete_run_says_so_and_an_interrupted_one_starts_again(self):
        arguments = [*LINEAR, "-o", "once"]
        process = subprocess.Popen(common.command(PROGRAM, *arguments), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        while not os.path.exists("runs/once/run.h5"):
            self.assertIsNone(process.poll())
            time.sleep(0.01)
        process.send_signal(signal.SIGTERM)
        _, stderr = process.communicate()
        self.assertEqual(process.returncode, 75, stderr)
        with h5py.File("runs/once/run.h5") as f:
            self.assertEqual(f.attrs["status"], b"interrupted")
        self.fails(2, "an unfinished run of that name", program=PROGRAM, arguments=[*arguments, "--resume", "never"])
        self.assertIn("validation error", run(PROGRAM, *arguments).stdout)
        changed = os.stat("runs/once/model.safetensors").st_mtime_ns
        done = run(PROGRAM, *arguments, ranks=2)
        self.assertEqual(done.stdout, "run runs/once is complete; nothing to do\n")
        self.assertEqual(os.stat("runs/once/model.safetensors").st_mtime_ns, changed)
        # Where the features are and how the sample spells the classifier are not what is fitted.
        spelled = [*DATA[:-1], "moved.h5", "--mmlspark_model_type", "logisticregression", "-o", "once"]
        again = run(PROGRAM, *spelled)
        self.assertEqual(again.stdout, done.stdout)
        self.assertIn("'moved.h5' is not written", again.stderr)
        self.fails(2, "it has other settings", "--l2 was '0.01' and is '1'", program=PROGRAM,
                   arguments=[*arguments, "--l2", "1"], ranks=2)
        # Features of other tiles and weights are told from these.
        self.fails(2, "cannot use features in 'features.h5'", "training_tiles_crc32", program=PROGRAM,
                   arguments=[*LINEAR, "-o", "other", "-f", "0.5"], ranks=2)
        self.fails(2, "weights_crc32", program=PROGRAM, arguments=[*LINEAR, "-o", "other", "--seed", "1"])
        with h5py.File("features.h5", "r+") as f:
            f["made_of"].attrs["precision"] = np.bytes_("another")
        self.fails(2, "another precision", program=PROGRAM, arguments=[*LINEAR, "-o", "other"])
        with open("features.h5", "wb") as f:
            f.write(b"no features")
        self.fails(2, "no HDF5 file", program=PROGRAM, arguments=[*LINEAR, "-o", "other"])
        self.assertFalse(os.path.exists("runs/other"))

    def test_classifiers_being_fitted_stop_for_a_signal(self):
        # Both would take hours.
        endless = {"forest": [*FOREST, "--trees", "100000", "--depth", "25"],
                   "linear": [*LINEAR, "--l2", "1e-9", "--max_iterations", "100000000"]}
        for name, arguments in endless.items():
            process = subprocess.Popen(common.command(PROGRAM, *arguments, "-o", name, ranks=2), stdout=subprocess.PIPE,
                                       stderr=subprocess.PIPE)
            while not os.path.exists("features.h5"):
                self.assertIsNone(process.poll())
                time.sleep(0.01)
            process.send_signal(signal.SIGUSR1)
            _, stderr = process.communicate(timeout=300)
            self.assertEqual(process.returncode, 75, stderr)
            with h5py.File(f"runs/{name}/run.h5") as f:
                self.assertEqual(f.attrs["status"], b"interrupted")
            os.remove("features.h5")

    def test_bad_input_is_one_clear_line(self):
        def usage(part, *arguments):
            self.fails(1, part, program=PROGRAM, arguments=arguments)

        usage("--classifier is missing", *DATA, "-o", "x")
        usage("give one of them", *LINEAR, "--mmlspark_model_type", "randomforest", "-o", "x")
        usage("--mmlspark_model_type", *DATA, "--mmlspark_model_type", "svm", "-o", "x")
        usage("--classifier", *DATA, "-m", "svm", "-o", "x")
        usage("--output_model_name", *LINEAR, "-o", "a/b")
        usage("--output_model_name is missing", *LINEAR)
        usage("--sample_frac is 0", *LINEAR, "-o", "x", "-f", "0")
        usage("--l2 is -1", *LINEAR, "-o", "x", "--l2", "-1")
        usage("--trees is 0", *FOREST, "-o", "x", "--trees", "0")
        usage("--l2 is given, but --classifier is random_forest", *FOREST, "-o", "x", "--l2", "0.1")
        usage("--depth is given, but --classifier is logistic_regression", *LINEAR, "-o", "x", "--depth", "3")
        usage("--depth is 26", *FOREST, "-o", "x", "--depth", "26")
        for side in "one", "other":
            os.makedirs(f"{side}/Forest")
            os.makedirs(f"{side}/{side}")
            for name in "Forest", side:
                os.symlink(f"{TILES}/train/forest/" + sorted(os.listdir(f"{TILES}/train/forest"))[0], f"{side}/{name}/a.png")
        rest = ["-p", "resnet18", "-m", "random_forest", "-o", "x"]
        self.fails(2, "give both the same class folders", program=PROGRAM, ranks=2,
                   arguments=["--train", "one", "--validation", "other", *rest])
        os.makedirs("one/Empty")
        self.fails(2, "Empty", program=PROGRAM, ranks=2, arguments=["--train", "one", "--validation", "one", *rest])
        os.rmdir("one/Empty")
        os.unlink("one/one/a.png")
        with open("one/one/a.png", "wb") as f:
            f.write(b"no PNG")
        done = run(PROGRAM, "--train", "one", "--validation", "one", *rest, expect=2)
        self.assertIn("cannot use tile 'one/one/a.png'", done.stderr)
        with h5py.File("runs/x/run.h5") as f:
            self.assertEqual(f.attrs["status"], b"failed")
        self.fails(2, "nowhere", program=PROGRAM, ranks=2, arguments=["--train", "nowhere", "--validation", "one", *rest])
        save_file({"a": torch.zeros(1)}, "other.safetensors")
        self.fails(2, "other.safetensors", program=PROGRAM, ranks=2,
                   arguments=["--train", f"{TILES}/train", "--validation", f"{TILES}/validation", *rest,
                              "--pretrained_weights", "other.safetensors"])


if __name__ == "__main__":
    common.need_real_tiles()
    unittest.main()
