#!/usr/bin/env python3
"""quadrat-score beside PyTorch on one GPU, from packed tiles to classes in bf16, paired.

PyTorch has what it has to offer: a DataLoader with a worker process a core, which read from the shards and decode with
Pillow, pinned memory, channels last, bf16 autocast, torch.compile with CUDA graphs (mode reduce-overhead), every batch of one
size. Its first pass over the tiles, in which it compiles and starts its workers, is not counted. quadrat's rate is its own
record's, files to classes, without its start.

  $(tools/python_env) tools/bench/gpu/score.py --shards shards --runs runs --model NAME [--bin build/gpu/bin] [--pairs 3]

--shards: what quadrat-pack wrote. NAME: a model of quadrat-finetune's.
"""
import argparse
import glob
import io
import json
import os
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time

import h5py
import numpy as np
import torch
import torchvision
from PIL import Image
from safetensors import safe_open


class Tiles(torch.utils.data.Dataset):
    def __init__(self, shards):
        self.places = []
        for path in sorted(glob.glob(os.path.join(shards, "*.tar"))):
            with tarfile.open(path) as tar:
                self.places += [(path, member.offset_data, member.size) for member in tar if member.name.endswith(".png")]
        self.files = {}

    def __len__(self):
        return len(self.places)

    def __getitem__(self, index):
        path, offset, size = self.places[index]
        if path not in self.files:
            self.files[path] = os.open(path, os.O_RDONLY)
        png = os.pread(self.files[path], size, offset)
        return torch.from_numpy(np.array(Image.open(io.BytesIO(png)).convert("RGB")))


def peer(shards, model_file, batch):
    """@return tiles/s of the second pass"""
    torch.backends.cudnn.benchmark = True
    with safe_open(model_file, "pt") as file:
        metadata = file.metadata()
        weights = {name: file.get_tensor(name) for name in file.keys()}
    classes = len(json.loads(metadata["classes"]))
    model = getattr(torchvision.models, metadata["architecture"])(num_classes=classes)
    model.load_state_dict(weights)
    model = model.eval().cuda().to(memory_format=torch.channels_last)
    mean, std = (torch.tensor(json.loads(metadata[name]), device="cuda").view(1, 3, 1, 1) for name in ("mean", "std"))

    def classify(pixels):
        with torch.autocast("cuda", torch.bfloat16):
            values = ((pixels.permute(0, 3, 1, 2).float() / 255 - mean) / std).to(torch.bfloat16, memory_format=torch.channels_last)
            return torch.softmax(model(values).float(), 1)

    compiled = torch.compile(classify, mode="reduce-overhead")
    tiles = Tiles(shards)
    loader = torch.utils.data.DataLoader(tiles, batch, num_workers=os.cpu_count(), pin_memory=True, drop_last=True,
                                         persistent_workers=True, prefetch_factor=4)
    with torch.inference_mode():
        for _ in range(2):
            start, done, rows = time.monotonic(), 0, []
            for pixels in loader:
                torch.compiler.cudagraph_mark_step_begin()
                rows.append(compiled(pixels.cuda(non_blocking=True)).clone())
                done += len(pixels)
            torch.cat(rows).cpu()
            rate = done / (time.monotonic() - start)
    return rate


def quadrat(options):
    with tempfile.TemporaryDirectory() as scores:
        done = subprocess.run([os.path.join(options.bin, "quadrat-score"), "--tiles", options.shards, "-o", options.model, "--runs",
                               options.runs, "--scores", scores, "--device", "cuda", "--precision", "bf16"],
                              capture_output=True, text=True)
        if done.returncode:
            sys.exit(done.stderr)
        with h5py.File(os.path.join(scores, options.model, "scores.h5")) as record:
            return float(record.attrs["tiles_per_s"])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", required=True)
    parser.add_argument("--runs", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--bin", default="build/gpu/bin")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--peer", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    model_file = os.path.join(options.runs, options.model, "model.safetensors")
    if options.peer:
        print("RESULT", peer(options.shards, model_file, options.batch))
        return
    ours, theirs = [], []
    for _ in range(options.pairs):
        ours.append(quadrat(options))
        done = subprocess.run([sys.executable, os.path.abspath(__file__), *sys.argv[1:], "--peer"], capture_output=True, text=True)
        result = [line for line in done.stdout.splitlines() if line.startswith("RESULT")]
        if not result:
            sys.exit(done.stderr)
        theirs.append(float(result[0].split()[1]))
    for name, rates in (("quadrat", ours), ("PyTorch", theirs)):
        print(f"{name}: {statistics.median(rates):.0f} tiles/s ({min(rates):.0f} to {max(rates):.0f})")
    print(f"ratio of the medians {statistics.median(ours) / statistics.median(theirs):.2f}")


if __name__ == "__main__":
    main()
