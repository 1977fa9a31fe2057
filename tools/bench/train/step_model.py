#!/usr/bin/env python3
"""A model of the time a training step takes on 8, 64 and 512 hosts, from parts measured on two.

Measured, each `--times` times, medians: a step of `--rows` tiles of one rank alone; sums over MPI of 4 kB to 4 MB between two
network namespaces joined by a cable of `--mbit` (two_hosts.sh), whose largest gives W bytes/s and whose smallest the latency
l; a step of two ranks there, what share of it they wait for each other, and C, the rest of it: computing, and moving messages.

    S(N) = 2 (N-1)/N G/W + 2 b log2(N) l      sums of G bytes of gradients in b buckets, by a ring's bytes and a tree's steps
    T(N) = C + x S(N)                         x = (waiting a step on two hosts) / S(2): what the backward pass does not hide

Assumed: one rank a host, each with a link of its own to a network that carries all of them at once; hosts equally quick and
never disturbed; the share x that is not hidden stays what it is on two hosts, of which larger sums would hide less: T(N) is
kind where S(N) is more than a backward pass (marked *). Other links than the measured one scale W alone. The percentages
are the step alone over T(N).

  $(tools/python_env) tools/bench/train/step_model.py --tiles ../shared/data/tiles/ucmerced6       (root: it makes namespaces)
"""
import argparse
import math
import os
import re
import statistics
import subprocess
import sys
import tempfile

import common

HERE = os.path.dirname(os.path.abspath(__file__))
BUCKET = 4 << 20  # comm::ReducerOptions::bucket_bytes
# Options, bytes of gradients a step, epochs. ResNet18 with 6 classes has 11,179,590 weights.
CASES = {
    "all": (["-r", "all"], 4 * 11_179_590, 3),
    "all, --bf16_gradients": (["-r", "all", "--bf16_gradients"], 2 * 11_179_590, 3),
    "last_only": (["-r", "last_only", "--augment", "none"], 4 * (512 * 6 + 6), 12),
}
BACKWARD = 2 / 3  # of a step's computing


def run(*words):
    done = subprocess.run(list(map(str, words)), capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr or done.stdout)
    return done.stdout + done.stderr


def train(options, words, ranks, epochs):
    """@return seconds a step, and the share of it that a rank waited, of the last epoch"""
    with tempfile.TemporaryDirectory() as runs:
        program = [os.path.join(options.bin, "quadrat-finetune"), "--threads", 1, "--train", f"{options.tiles}/train", "--validation",
                   f"{options.tiles}/validation", "-p", "resnet18", "-n", epochs, "--batch_size", options.rows * ranks,
                   "--learning_rate", 1e-3, "--runs", runs, "-o", "model", *words]
        text = run(*([os.path.join(HERE, "two_hosts.sh"), options.mbit] if ranks == 2 else []), *program)
    rate = float(re.findall(r"([\d.]+) tiles/s", text)[-1])
    waiting = re.findall(r"([\d.]+) % of it waiting", text)
    return options.rows * ranks / rate, float(waiting[-1]) / 100 if waiting else 0.0


def median(options, measure):
    return [statistics.median(values) for values in zip(*(measure() for _ in range(options.times)))]


def link(options):
    """@return W bytes/s of a large sum, and l seconds of a small one, which goes there and back"""
    rows = [list(map(float, line.split())) for line in
            run(os.path.join(HERE, "two_hosts.sh"), options.mbit, os.path.join(options.bin, "../tests/bench_train_all_reduce"))
            .splitlines() if re.match(r"\d+ [\d.]+$", line)]
    return rows[-1][0] / rows[-1][1], rows[0][1] / 2


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiles", required=True, help="folder with train/ and validation/")
    parser.add_argument("--rows", type=int, default=32, help="tiles a rank computes in a step")
    parser.add_argument("--mbit", type=int, default=1000)
    parser.add_argument("--times", type=int, default=3)
    parser.add_argument("--bin", default=os.path.join(common.ROOT, "build/release/bin"))
    options = parser.parse_args()
    os.environ.update(OMP_NUM_THREADS="1")
    rate, latency = median(options, lambda: link(options))
    print(f"link: {rate / 1e6:.0f} MB/s, {latency * 1e6:.0f} us")
    for name, (words, size, epochs) in CASES.items():
        alone, _ = median(options, lambda: train(options, words, 1, epochs))
        together, waiting = median(options, lambda: train(options, words, 2, epochs))
        buckets = math.ceil(size / BUCKET)

        def sums(hosts, bytes_per_s):
            return 2 * (hosts - 1) / hosts * size / bytes_per_s + 2 * buckets * math.log2(hosts) * latency

        computing, exposed = (1 - waiting) * together, waiting * together / sums(2, rate)
        print(f"{name}: alone {1e3 * alone:.2f} ms, two hosts {1e3 * together:.2f} ms of which {100 * waiting:.1f} % waiting, C "
              f"{1e3 * computing:.2f} ms, G {size / 1e6:.3f} MB, S(2) {1e3 * sums(2, rate):.2f} ms, x {exposed:.2f}")
        for factor in (1, 10, 100):
            cells = []
            for hosts in (2, 8, 64, 512):
                each = sums(hosts, factor * rate)
                step = computing + exposed * each
                cells.append(f"{hosts}: {1e3 * step:.2f} ms, {100 * alone / step:.0f} %{'*' if each > BACKWARD * alone else ''}")
            print(f"  {factor * options.mbit / 1000:g} Gbit/s   " + "   ".join(cells))


if __name__ == "__main__":
    main()
