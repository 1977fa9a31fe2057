#!/usr/bin/env python3
"""quadrat-finetune beside PyTorch on one GPU, paired, training all of a network in bf16.

PyTorch has what it has to offer: tiles decoded once and kept on the card as bytes, flips and quarter turns there, bf16
autocast, channels last, a fused optimizer, cuDNN's autotuning, torch.compile with CUDA graphs (mode reduce-overhead). Runs
alternate; images/s are those of the last epoch, medians over the pairs, both on the same tiles and batch.

Share of the matrix rate: floating-point operations of a tile's forward and backward pass, as PyTorch counts them, x images/s /
the rate of an 8192 x 8192 x 8192 bf16 product on this card. The kernel's share of the memory's bandwidth is what
build/gpu/tests/bench_gpu_augment prints (ninja -C build/gpu bench_gpu_augment).

  $(tools/python_env) tools/bench/gpu/compare.py --tiles tiles [--bin build/gpu/bin] [--batch 512] [--pairs 3]

--tiles: a folder with train/ and validation/, class folders of 224 px PNG.
"""
import argparse
import glob
import os
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor

import h5py
import numpy as np
import torch
import torchvision
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def read_tiles(folder):
    """@return uint8 [n, 3, 224, 224] and labels, on the card"""
    classes = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir())
    files = [(path, label) for label, name in enumerate(classes) for path in sorted(glob.glob(f"{folder}/{name}/*.png"))]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        pixels = np.stack(list(pool.map(lambda entry: np.asarray(Image.open(entry[0]).convert("RGB")), files)))
    tiles = torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last).cuda()
    return tiles, torch.tensor([label for _, label in files]).cuda(), len(classes)


def peer(network, folder, batch, epochs):
    """@return images/s of the last epoch, and a tile's floating-point operations"""
    torch.backends.cudnn.benchmark = True
    tiles, labels, classes = read_tiles(os.path.join(folder, "train"))
    model = getattr(torchvision.models, network)(num_classes=classes).cuda().to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), 1e-3, 0.9, weight_decay=5e-4, fused=True)
    mean, std = (torch.tensor(v, device="cuda").view(1, 3, 1, 1) for v in (MEAN, STD))

    def loss_of(pixels, targets):
        with torch.autocast("cuda", torch.bfloat16):
            values = ((pixels.float() / 255 - mean) / std).to(torch.bfloat16, memory_format=torch.channels_last)
            return torch.nn.functional.cross_entropy(model(values).float(), targets)

    with FlopCounterMode(display=False) as counter:
        loss_of(tiles[:8], labels[:8]).backward()
    flops = counter.get_total_flops() / 8
    optimizer.zero_grad()
    compiled = torch.compile(loss_of, mode="reduce-overhead")
    steps = len(tiles) // batch
    for _ in range(epochs):
        torch.cuda.synchronize()
        start = time.monotonic()
        order = torch.randperm(len(tiles), device="cuda")
        for step in range(steps):
            chosen = order[step * batch:(step + 1) * batch]
            # One symmetry a batch: kinder to PyTorch than quadrat's one a tile.
            pixels = torch.rot90(tiles[chosen], int(torch.randint(4, ())), (2, 3))
            pixels = pixels.contiguous(memory_format=torch.channels_last)
            torch.compiler.cudagraph_mark_step_begin()
            compiled(pixels, labels[chosen]).backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        torch.cuda.synchronize()
        rate = steps * batch / (time.monotonic() - start)
    return rate, flops


def quadrat(bin_folder, network, folder, batch, epochs):
    """@return images/s of the last epoch"""
    with tempfile.TemporaryDirectory() as runs:
        done = subprocess.run([os.path.join(bin_folder, "quadrat-finetune"), "--train", os.path.join(folder, "train"),
                               "--validation", os.path.join(folder, "validation"), "-p", network, "-r", "all", "-n", str(epochs),
                               "--batch_size", str(batch), "--precision", "bf16", "--device", "cuda", "--runs", runs,
                               "-o", "bench"], capture_output=True, text=True)
        if done.returncode:
            sys.exit(done.stderr)
        with h5py.File(os.path.join(runs, "bench", "run.h5")) as record:
            return float(record["epochs"]["tiles_per_s"][-1])


def matrix_rate():
    """Floating-point operations/s of a large bf16 product, the best of 10."""
    a, b = (torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    best = float("inf")
    for _ in range(10):
        torch.cuda.synchronize()
        start = time.monotonic()
        for _ in range(10):
            a @ b
        torch.cuda.synchronize()
        best = min(best, (time.monotonic() - start) / 10)
    return 2 * 8192**3 / best


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiles", required=True)
    parser.add_argument("--bin", default="build/gpu/bin")
    parser.add_argument("--batch", type=int, default=512)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--network", choices=["resnet18", "alexnet"])
    parser.add_argument("--peer", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("compare.py: error: this machine has no GPU that PyTorch can use")
    if options.peer:  # a process of its own: what it leaves on the card is gone with it
        print("RESULT", *peer(options.peer, options.tiles, options.batch, options.epochs))
        return
    peak = matrix_rate()
    torch.cuda.empty_cache()
    print(f"{torch.cuda.get_device_name()}: bf16 matrix rate {peak / 1e12:.0f} Tflop/s")
    for network in [options.network] if options.network else ["resnet18", "alexnet"]:
        ours, theirs = [], []
        for _ in range(options.pairs):
            ours.append(quadrat(options.bin, network, options.tiles, options.batch, options.epochs))
            words = [sys.executable, os.path.abspath(__file__), "--peer", network, "--tiles", options.tiles, "--batch",
                     str(options.batch), "--epochs", str(options.epochs)]
            done = subprocess.run(words, capture_output=True, text=True)
            result = [line for line in done.stdout.splitlines() if line.startswith("RESULT")]
            if not result:
                sys.exit(done.stderr)
            rate, flops = map(float, result[0].split()[1:])
            theirs.append(rate)
        for name, rates in (("quadrat", ours), ("PyTorch", theirs)):
            rate = statistics.median(rates)
            print(f"{network} {name}: {rate:.0f} images/s ({min(rates):.0f} to {max(rates):.0f}), "
                  f"{100 * flops * rate / peak:.0f} % of the matrix rate")
        print(f"{network}: ratio of the medians {statistics.median(ours) / statistics.median(theirs):.2f}")


if __name__ == "__main__":
    main()
