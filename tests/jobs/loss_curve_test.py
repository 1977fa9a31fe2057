"""The losses of quadrat-finetune follow PyTorch's, epoch by epoch: the same tiles in the same order, from the same weights.

ResNet18, all layers, fp32, one rank, no augmentation. The order of tiles is worked out here a second time, from what
include/quadrat/tiles/shard_plan.h and include/quadrat/base/random.h say. Short by default; the whole curve, and beside it
how far PyTorch itself ends from its own curve when its first weights are changed by half a unit in the last place:

  QUADRAT_BIN=build/release/bin QUADRAT_SHARED=../shared python tests/jobs/loss_curve_test.py --epochs 10 \
      --tiles_per_class 40 --control
"""
import argparse
import copy
import math
import os
import sys
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

SHARDS, BATCH, RATE, SEED = 16, 16, 0.0003, 3
DECAY = 0.2  # so much that its absence would show
STREAM_SHARD, STREAM_ORDER = 2, 3
MASK = (1 << 64) - 1


class KeyedRandom:
    def __init__(self, *key):
        self.state = 0x6A09E667F3BCC909
        for part in key:
            self.state = self.mix(self.state ^ self.mix((part + 0x9E3779B97F4A7C15) & MASK))

    @staticmethod
    def mix(z):
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
        return z ^ (z >> 31)

    def below(self, n):
        self.state = (self.state + 0x9E3779B97F4A7C15) & MASK
        return self.mix(self.state) * n >> 64

    def shuffled(self, items):
        items = list(items)
        for i in range(len(items), 1, -1):
            j = self.below(i)
            items[i - 1], items[j] = items[j], items[i - 1]
        return items


def batches(labels, epoch):
    """Tiles of each of the epoch's batches."""
    shards, dealt = [[] for _ in range(SHARDS)], 0
    for label in sorted(set(labels)):
        for tile in KeyedRandom(SEED, STREAM_SHARD, label).shuffled(i for i, l in enumerate(labels) if l == label):
            shards[dealt % SHARDS].append(tile)
            dealt += 1
    orders = [KeyedRandom(SEED, STREAM_ORDER, epoch, s).shuffled(tiles) for s, tiles in enumerate(shards)]
    share = BATCH // SHARDS
    for step in range(-(-len(shards[0]) // share)):
        yield [tile for order in orders for tile in order[step * share:(step + 1) * share]]


def load(folder):
    normalise = torchvision.transforms.Compose([
        torchvision.transforms.ToTensor(), torchvision.transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])])
    data = torchvision.datasets.ImageFolder(folder)
    return torch.stack([normalise(Image.open(path).convert("RGB")) for path, _ in data.samples]), data.targets


def curve(model, epochs):
    """PyTorch's (train loss, validation loss, learning rate) of each epoch, and its state after each.

    Not channels-last: there PyTorch sums batch statistics in float32, one row after the other, and is off by 1e-5.
    """
    (x, labels), (xv, validation_labels) = load("train"), load("validation")
    y, yv = torch.tensor(labels), torch.tensor(validation_labels)
    optimizer = torch.optim.SGD(model.parameters(), RATE, 0.9, weight_decay=DECAY)
    steps = epochs * len(list(batches(labels, 1)))
    rows, states, step = [], [], 0
    for epoch in range(1, epochs + 1):
        model.train()
        total = 0.0
        for batch in batches(labels, epoch):
            for group in optimizer.param_groups:
                group["lr"] = RATE * 0.5 * (1 + math.cos(math.pi * step / steps))
            loss = torch.nn.functional.cross_entropy(model(x[batch]), y[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item() * len(batch)
            step += 1
        model.eval()
        with torch.no_grad():
            validation = torch.nn.functional.cross_entropy(torch.cat([model(part) for part in xv.split(16)]), yv).item()
        rows.append((total / len(y), validation, optimizer.param_groups[0]["lr"]))
        states.append(copy.deepcopy(model.state_dict()))
    return np.array(rows), states


class LossCurve(InFolder):
    epochs, tiles_per_class, with_control = 2, 8, False

    def test_follows_pytorch(self):
        for name, count in (("train", self.tiles_per_class), ("validation", max(2, self.tiles_per_class // 4))):
            for label in os.listdir(f"{TILES}/{name}"):
                os.makedirs(f"{name}/{label}")
                for tile in sorted(os.listdir(f"{TILES}/{name}/{label}"))[:count]:
                    os.symlink(f"{os.path.abspath(TILES)}/{name}/{label}/{tile}", f"{name}/{label}/{tile}")
        torch.manual_seed(1)
        model = torchvision.models.resnet18(num_classes=len(os.listdir("train")))
        torch.save(model.state_dict(), "start.pth")
        run("quadrat-finetune", "--train", "train", "--validation", "validation", "-p", "resnet18", "-r", "all",
            "--pretrained_weights", "start.pth", "--augment", "none", "--precision", "fp32", "--batch_size", BATCH, "--shards",
            SHARDS, "--learning_rate", RATE, "--weight_decay", DECAY, "--seed", SEED, "-n", self.epochs, "-o", "curve", ranks=1)
        ours = pd.read_hdf("runs/curve/run.h5", "epochs")[["train_loss", "validation_loss", "learning_rate"]].to_numpy()
        start = copy.deepcopy(model)
        theirs, states = curve(model, self.epochs)
        for epoch, (a, b) in enumerate(zip(ours, theirs), 1):
            print(f"epoch {epoch:2}: train loss {a[0]:.6f}, PyTorch {b[0]:.6f}; validation loss {a[1]:.6f}, PyTorch {b[1]:.6f}",
                  flush=True)
        if self.with_control:
            with torch.no_grad():
                for parameter in start.parameters():
                    parameter *= 1 + 2.0**-24 * torch.randn_like(parameter)
            control, _ = curve(start, self.epochs)
            print(f"largest relative difference: quadrat {np.abs(ours[:, :2] / theirs[:, :2] - 1).max():.1e}, "
                  f"PyTorch from weights with other rounding {np.abs(control[:, :2] / theirs[:, :2] - 1).max():.1e}")
        np.testing.assert_allclose(ours[:, 2], theirs[:, 2], rtol=1e-9)
        # fp32 sums in another order: 1e-7 a step, which training amplifies from step to step.
        np.testing.assert_allclose(ours[:, :2], theirs[:, :2], rtol=1e-3)
        # Batch norm makes the loss blind to the weights' size, which weight decay changes: by 1e-4 of it a step here.
        with h5py.File("runs/curve/run.h5") as f:
            kept = f["epochs"].attrs["kept_epoch"] - 1
        for name, weights in load_file("runs/curve/model.safetensors").items():
            if name.endswith("weight") and weights.dim() > 1:
                self.assertAlmostEqual((weights.norm() / states[kept][name].norm()).item(), 1, delta=2e-5, msg=name)


if __name__ == "__main__":
    common.need_real_tiles()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=LossCurve.epochs)
    parser.add_argument("--tiles_per_class", type=int, default=LossCurve.tiles_per_class)
    parser.add_argument("--rate", type=float, default=RATE)
    parser.add_argument("--control", action="store_true")
    arguments = parser.parse_args()
    RATE, LossCurve.with_control = arguments.rate, arguments.control
    LossCurve.epochs, LossCurve.tiles_per_class = arguments.epochs, arguments.tiles_per_class
    unittest.main(argv=sys.argv[:1], verbosity=2)
