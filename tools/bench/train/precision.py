#!/usr/bin/env python3
"""Validation errors of quadrat-finetune in bf16 beside float32: the same tiles, start and order of tiles, seed by seed.

The error is the mean over a run's last three epochs, so that a few tiles that come and go count less; the difference of the
means over all seeds is what bf16 costs, its standard error how much of that is chance.

  $(tools/python_env) tools/bench/train/precision.py --tiles ../shared/data/tiles/ucmerced6 --seeds 0 1 2 \\
    [--device cuda] [--bin build/release/bin] [-- OPTIONS OF quadrat-finetune]

--tiles: a folder with train/ and validation/. What follows -- goes to every run, -n 20 --learning_rate 0.05 for example.
"""
import argparse
import os
import statistics
import subprocess
import sys
import tempfile

import h5py

LAST_EPOCHS = 3


def error_of(options, runs, seed, precision):
    """@return the validation error in points, and tiles/s of the last epoch"""
    name = f"{precision}_{seed}"
    done = subprocess.run([os.path.join(options.bin, "quadrat-finetune"), "--train", os.path.join(options.tiles, "train"),
                           "--validation", os.path.join(options.tiles, "validation"), "-p", options.network, "-r", "all",
                           "--seed", str(seed), "--precision", precision, "--device", options.device, "--runs", runs, "-o", name,
                           *options.finetune], capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr)
    with h5py.File(os.path.join(runs, name, "run.h5")) as record:
        epochs = record["epochs"]
        if len(epochs["validation_error"]) < LAST_EPOCHS:
            sys.exit(f"precision.py: error: a run had fewer than {LAST_EPOCHS} epochs; give -n {LAST_EPOCHS} or more")
        return 100 * float(epochs["validation_error"][-LAST_EPOCHS:].mean()), float(epochs["tiles_per_s"][-1])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiles", required=True)
    parser.add_argument("--bin", default="build/release/bin")
    parser.add_argument("--network", choices=["resnet18", "alexnet"], default="resnet18")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("finetune", nargs="*", metavar="-- OPTIONS", help="for every quadrat-finetune")
    options = parser.parse_args()
    errors = {"fp32": [], "bf16": []}
    with tempfile.TemporaryDirectory() as runs:
        for seed in options.seeds:
            for precision in errors:
                error, rate = error_of(options, runs, seed, precision)
                errors[precision].append(error)
                print(f"seed {seed} {precision}: {error:.2f} % wrong, {rate:.0f} tiles/s", flush=True)
    if len(options.seeds) < 2:
        return
    differences = [bf16 - fp32 for fp32, bf16 in zip(errors["fp32"], errors["bf16"])]
    of_mean = statistics.stdev(differences) / len(differences) ** 0.5
    print(f"mean of {len(differences)} seeds: fp32 {statistics.mean(errors['fp32']):.2f} %, bf16 {statistics.mean(errors['bf16']):.2f} %, "
          f"a difference of {statistics.mean(differences):+.2f} points, standard error {of_mean:.2f}, "
          f"from {min(differences):+.2f} to {max(differences):+.2f} by seed")


if __name__ == "__main__":
    main()
