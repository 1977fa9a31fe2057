#!/usr/bin/env python3
"""Validation error and speed of quadrat-finetune beside PyTorch DistributedDataParallel (gloo) on the same recipe.

ResNet18, all layers, random initialisation, the 8 flips and quarter turns, SGD with momentum 0.9, weight decay 5e-4, half a
cosine, batch statistics of each rank's part; the same tiles, ranks, threads and precision. Runs alternate, seed by seed.

  $(tools/python_env) tools/bench/train/compare_error.py --tiles ../shared/data/tiles/ucmerced6 --epochs 30 --seeds 0 1 2
"""
import argparse
import os
import statistics
import tempfile
import time

import numpy as np
import pandas as pd
import torch
import torchvision
from PIL import Image

import common


def load(folder):
    """Every tile decoded once, as quadrat does it: uint8 [N, 3, S, S] and labels."""
    classes = sorted(os.listdir(folder))
    tiles, labels = [], []
    for label, name in enumerate(classes):
        for tile in sorted(os.listdir(os.path.join(folder, name))):
            pixels = np.asarray(Image.open(os.path.join(folder, name, tile)).convert("RGB"))
            tiles.append(torch.from_numpy(pixels.copy()).permute(2, 0, 1))
            labels.append(label)
    return torch.stack(tiles), torch.tensor(labels), len(classes)


def normalised(pixels):
    return ((pixels / 255 - common.MEAN) / common.STD).contiguous(memory_format=torch.channels_last)


def worker(arguments):
    """One rank of the peer; rank 0 prints 'error seconds'."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo")
    rank, ranks = torch.distributed.get_rank(), torch.distributed.get_world_size()
    torch.manual_seed(arguments.seed)
    start = time.monotonic()
    x, y, classes = load(os.path.join(arguments.tiles, "train"))
    xv, yv, _ = load(os.path.join(arguments.tiles, "validation"))
    model = torchvision.models.resnet18(num_classes=classes).to(memory_format=torch.channels_last)
    model = torch.nn.parallel.DistributedDataParallel(model)
    optimizer = torch.optim.SGD(model.parameters(), arguments.learning_rate, 0.9, weight_decay=5e-4)
    steps = -(-len(x) // arguments.batch)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps * arguments.epochs)
    order = torch.Generator().manual_seed(arguments.seed)
    turns = torch.Generator().manual_seed(1000 * arguments.seed + rank)
    amp = torch.autocast("cpu", torch.bfloat16, enabled=arguments.precision == "bf16")
    best = 1.0
    for _ in range(arguments.epochs):
        model.train()
        for batch in torch.randperm(len(x), generator=order).split(arguments.batch):
            mine = batch[rank::ranks]
            inputs = normalised(torch.stack([common.dihedral(x[i], turns) for i in mine]))
            with amp:
                logits = model(inputs)
            loss = torch.nn.functional.cross_entropy(logits.float(), y[mine], reduction="sum") * ranks / len(batch)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        model.eval()
        wrong = torch.zeros(1)
        with torch.no_grad(), amp:
            for batch in torch.arange(rank, len(xv), ranks).split(16):
                wrong += (model.module(normalised(xv[batch])).argmax(1) != yv[batch]).sum()
        torch.distributed.all_reduce(wrong)
        best = min(best, wrong.item() / len(xv))
    if rank == 0:
        print("RESULT", best, time.monotonic() - start)


def peer(arguments, seed):
    words = ["--seed", seed]
    for name in ("tiles", "epochs", "batch", "learning_rate", "precision"):
        words += [f"--{name}", getattr(arguments, name)]
    error, seconds = common.torchrun(__file__, arguments.ranks, words)
    return error, seconds


def ours(arguments, seed, runs):
    start = time.monotonic()
    common.finetune(arguments.bin, arguments.ranks, [
        "--train", f"{arguments.tiles}/train", "--validation", f"{arguments.tiles}/validation", "-p", "resnet18", "-r", "all", "-n",
        arguments.epochs, "--batch_size", arguments.batch, "--learning_rate", arguments.learning_rate, "--precision",
        arguments.precision, "--seed", seed, "--runs", runs, "-o", f"seed{seed}"])
    return pd.read_hdf(f"{runs}/seed{seed}/run.h5", "epochs").validation_error.min(), time.monotonic() - start


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiles", required=True)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--learning_rate", type=float, default=0.0125)
    parser.add_argument("--precision", default="bf16", choices=["bf16", "fp32"])
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--bin", default=os.path.join(common.ROOT, "build/release/bin"), help="folder of quadrat-finetune")
    parser.add_argument("--seed", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        return worker(arguments)
    results = {"quadrat": [], "PyTorch": []}
    with tempfile.TemporaryDirectory() as runs:
        for seed in arguments.seeds:
            for name, result in (("quadrat", ours(arguments, seed, runs)), ("PyTorch", peer(arguments, seed))):
                results[name].append(result)
                print(f"seed {seed} {name:8} error {100 * result[0]:5.2f} %  {result[1]:6.1f} s", flush=True)
    for name, pairs in results.items():
        print(f"{name:8} mean error {100 * statistics.mean(e for e, _ in pairs):5.2f} %, median {statistics.median(s for _, s in pairs):.1f} s")
    ratio = statistics.median(p[1] / o[1] for o, p in zip(results["quadrat"], results["PyTorch"]))
    print(f"PyTorch's time / quadrat's, median of pairs: {ratio:.2f}")


if __name__ == "__main__":
    main()
