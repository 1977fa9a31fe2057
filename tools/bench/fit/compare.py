"""quadrat-fit beside PyTorch + scikit-learn: the same tiles and weights, from files to a validated classifier.

usage: compare.py BIN TILES [PAIRS]
  BIN    where quadrat-fit is
  TILES  a folder with train/ and validation/

Tries the peer's settings once each for a network, then runs both in turn PAIRS times (default 5) with the best. Prints
wall seconds of the whole command, medians and the median of the pairs' ratios; and the same of the part without
starting up (Python's imports, MPI). Both must err alike. Weights are random numbers: speed does not depend on them.
"""
import os
import statistics
import subprocess
import sys
import tempfile
import time

import h5py
import torch
import torchvision
from safetensors.torch import save_file

HERE = os.path.dirname(os.path.abspath(__file__))


SETTINGS = (("fp32", "0"), ("bf16", "0"), ("bf16", "2"), ("jit_bf16", "0"), ("jit_bf16", "2"))


def timed(words):
    start = time.perf_counter()
    done = subprocess.run(words, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"{words}: exit {done.returncode}\n{done.stderr}")
    return time.perf_counter() - start, done.stdout


def main():
    if len(sys.argv) not in (3, 4):
        sys.exit(__doc__)
    bin_dir, tiles = sys.argv[1:3]
    pairs = int(sys.argv[3]) if len(sys.argv) == 4 else 5
    os.environ.update(OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1")
    sets = [os.path.join(tiles, "train"), os.path.join(tiles, "validation")]
    with tempfile.TemporaryDirectory() as folder:
        for network, classifiers in (("resnet18", ("logistic_regression", "random_forest")),
                                     ("alexnet", ("logistic_regression",))):
            torch.manual_seed(0)
            weights = os.path.join(folder, network)
            save_file(getattr(torchvision.models, network)().state_dict(), weights)
            runs = os.path.join(folder, "runs")

            def ours(classifier, name):
                seconds, _ = timed(["mpirun", "-n", "2", os.path.join(bin_dir, "quadrat-fit"), "--train", sets[0],
                                    "--validation", sets[1], "-p", network, "-m", classifier, "--pretrained_weights",
                                    weights, "--runs", runs, "-o", name])
                with h5py.File(os.path.join(runs, name, "run.h5")) as f:
                    row = f["epochs"][0]
                    return seconds, row["seconds"], row["validation_error"]

            def peer(classifier, how, workers):
                seconds, out = timed([sys.executable, os.path.join(HERE, "peer.py"), *sets, weights, network,
                                      classifier, how, workers])
                error, inner = map(float, out.split())
                return seconds, inner, error

            tried = {}
            for how, workers in SETTINGS:
                try:
                    tried[how, workers] = peer(classifiers[0], how, workers)[0]
                except RuntimeError as error:
                    print(f"{network}: the peer cannot do {how}: {str(error).splitlines()[-1]}")
            best = min(tried, key=tried.get)
            print(f"{network}: peer with {best[0]} and {best[1]} loader processes (tried: "
                  + ", ".join(f"{how}/{w} {seconds:.1f} s" for (how, w), seconds in tried.items()) + ")")
            for classifier in classifiers:
                rows = [(ours(classifier, f"{network}_{classifier}_{i}"), peer(classifier, *best)) for i in range(pairs)]
                print(classifier)
                for i, what in enumerate(("whole command", "without starting up")):
                    a, b = ([row[side][i] for row in rows] for side in (0, 1))
                    print(f"  {what:20} quadrat {statistics.median(a):6.2f} s   peer {statistics.median(b):6.2f} s   "
                          f"ratio {statistics.median(y / x for x, y in zip(a, b)):.2f}")
                errors = [statistics.mean(row[side][2] for row in rows) for side in (0, 1)]
                print(f"  validation error     quadrat {100 * errors[0]:6.2f} %   peer {100 * errors[1]:6.2f} %", flush=True)
                if classifier == "logistic_regression" and abs(errors[0] - errors[1]) > 0.03:
                    sys.exit("the errors are too far apart for the two to have done the same")


main()
