#!/usr/bin/env python3
"""Speed of quadrat-finetune beside PyTorch DistributedDataParallel (gloo) on the same tiles, paired.

PyTorch: ImageFolder and DataLoader workers, channels-last, bf16 by autocast, gradients as bucket views, static graph, fused
SGD; frozen layers run without gradients. Both: random initial weights, SGD with momentum, one thread a rank; flips and quarter turns
with `all`, tiles as they are where layers are frozen: then both compute the same, PyTorch its frozen layers every epoch,
quadrat once (`--augment dihedral` has quadrat keep 4 views of each tile instead). Runs alternate; each figure is a median.

`all`: tiles/s of the last epoch. Where layers are frozen: the time of all epochs with their validation, from listing the tiles
to the last epoch's end; the start of processes is left out on both sides. GEMM share: floating-point operations of a tile's
forward and backward pass, as PyTorch counts them, x tiles/s / what the same number of processes reach together in a 1024 x
1024 x 1024 matrix product of that precision. Waiting: the share of an epoch in which a rank did nothing but wait for sums.

  $(tools/python_env) tools/bench/train/compare_speed.py --tiles ../shared/data/tiles/ucmerced6
"""
import argparse
import os
import re
import statistics
import tempfile
import time

import pandas as pd
import torch
import torchvision

import common

# name: network, layers, precision, epochs
CASES = {
    "resnet18-all-bf16": ("resnet18", "all", "bf16", 2),
    "resnet18-all-fp32": ("resnet18", "all", "fp32", 2),
    "alexnet-all-bf16": ("alexnet", "all", "bf16", 2),
    "alexnet-all-fp32": ("alexnet", "all", "fp32", 2),
    "resnet18-last_only-bf16": ("resnet18", "last_only", "bf16", 10),
    "alexnet-fully_connected-bf16": ("alexnet", "fully_connected", "bf16", 10),
}


def loader(folder, shuffle, augment, batch, workers, rank, ranks):
    steps = [torchvision.transforms.ToTensor(), torchvision.transforms.Normalize(common.MEAN.flatten(), common.STD.flatten())]
    if shuffle and augment:
        steps.append(common.dihedral)
    data = torchvision.datasets.ImageFolder(folder, torchvision.transforms.Compose(steps))
    sampler = torch.utils.data.DistributedSampler(data, ranks, rank, shuffle=shuffle)
    more = {"persistent_workers": True, "prefetch_factor": 4} if workers else {}
    return torch.utils.data.DataLoader(data, batch, sampler=sampler, num_workers=workers, **more)


def freeze(model, network, layers):
    """@return the modules that stay in evaluation mode"""
    if layers == "all":
        return []
    trained = {"last_only": "fc" if network == "resnet18" else "classifier.6", "fully_connected": "classifier"}[layers]
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith(trained))
    if layers == "fully_connected":
        return [model.features]
    return [model]


def worker(arguments):
    """One rank of the peer; rank 0 prints the last epoch's tiles/s and the seconds of everything."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo")
    rank, ranks = torch.distributed.get_rank(), torch.distributed.get_world_size()
    torch.manual_seed(0)
    torch.distributed.barrier()
    start = time.monotonic()
    train, validation = (loader(os.path.join(arguments.tiles, name), name == "train", arguments.augment == "dihedral",
                                arguments.batch // ranks, arguments.workers, rank, ranks) for name in ("train", "validation"))
    model = getattr(torchvision.models, arguments.network)(num_classes=len(train.dataset.classes))
    frozen = freeze(model, arguments.network, arguments.layers)
    model = model.to(memory_format=torch.channels_last)
    parallel = torch.nn.parallel.DistributedDataParallel(model, gradient_as_bucket_view=True, static_graph=True)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 1e-3, 0.9, weight_decay=5e-4, fused=True)
    amp = torch.autocast("cpu", torch.bfloat16, enabled=arguments.precision == "bf16")
    for epoch in range(arguments.epochs):
        parallel.train()
        for module in frozen:
            module.eval()
        train.sampler.set_epoch(epoch)
        before = time.monotonic()
        for x, y in train:
            with amp:
                logits = parallel(x.to(memory_format=torch.channels_last))
            loss = torch.nn.functional.cross_entropy(logits.float(), y)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
        torch.distributed.barrier()
        rate = len(train.dataset) / (time.monotonic() - before)
        if arguments.layers == "all":
            continue  # only training is compared
        model.eval()
        sums = torch.zeros(2)
        with torch.no_grad(), amp:
            for x, y in validation:
                logits = model(x.to(memory_format=torch.channels_last)).float()
                sums += torch.stack([torch.nn.functional.cross_entropy(logits, y, reduction="sum"), (logits.argmax(1) != y).sum()])
        torch.distributed.all_reduce(sums)
    if rank == 0:
        print("RESULT", rate, time.monotonic() - start, flush=True)
    torch.distributed.barrier()


def gemm_worker(arguments):
    """One rank of the matrix products; rank 0 prints what all reach together, in operations a second."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo")
    a, b = (torch.randn(1024, 1024).to(torch.bfloat16 if arguments.precision == "bf16" else torch.float32) for _ in range(2))
    rates = []
    for _ in range(30):
        before = time.monotonic()
        a @ b
        rates.append(2 * 1024**3 / (time.monotonic() - before))
    total = torch.tensor([statistics.median(rates)], dtype=torch.float64)
    torch.distributed.all_reduce(total)
    if torch.distributed.get_rank() == 0:
        print("RESULT", total.item(), flush=True)
    torch.distributed.barrier()


def flops_per_tile(network):
    from torch.utils.flop_counter import FlopCounterMode
    model = getattr(torchvision.models, network)(num_classes=6).eval()
    with FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, 3, 224, 224)).sum().backward()
    return counter.get_total_flops()


def ours(arguments, case, ranks):
    network, layers, precision, epochs = case
    with tempfile.TemporaryDirectory() as runs:
        out, err = common.finetune(arguments.bin, ranks, [
            "--train", f"{arguments.tiles}/train", "--validation", f"{arguments.tiles}/validation", "-p", network, "-r", layers,
            "-n", epochs, "--batch_size", arguments.batch, "--learning_rate", "1e-3", "--precision", precision, "--runs", runs,
            "-o", "speed", "--augment", augment_of(arguments, layers)])
        rate = pd.read_hdf(f"{runs}/speed/run.h5", "epochs").tiles_per_s.iloc[-1]
    waiting = re.findall(r"([\d.]+) % of it waiting", err)
    # From listing the tiles to the end.
    minutes, seconds = re.search(r"^time +(?:(\d+) min )?([\d.]+) s on", out, re.MULTILINE).groups()
    return rate, 60 * int(minutes or 0) + float(seconds), float(waiting[-1]) if waiting else 0.0


def peer(arguments, case):
    network, layers, precision, epochs = case
    return common.torchrun(__file__, arguments.ranks, [
        "--tiles", arguments.tiles, "--batch", arguments.batch, "--workers", arguments.workers, "--network", network, "--layers",
        layers, "--precision", precision, "--epochs", epochs, "--augment", augment_of(arguments, layers)])


def augment_of(arguments, layers):
    return arguments.augment or ("dihedral" if layers == "all" else "none")


class Comparison:
    """One case: what either side measured, pair by pair."""

    def __init__(self, name):
        self.name, self.case = name, CASES[name]
        self.mine, self.theirs, self.alone = [], [], []

    def measure(self, arguments):
        self.mine.append(ours(arguments, self.case, arguments.ranks))
        self.theirs.append(peer(arguments, self.case))
        (rate, seconds, waiting), (peer_rate, peer_seconds) = self.mine[-1], self.theirs[-1]
        print(f"  {self.name:29} quadrat {rate:6.1f} tiles/s {seconds:6.1f} s, waiting {waiting:.1f} %; PyTorch {peer_rate:6.1f} "
              f"tiles/s {peer_seconds:6.1f} s", flush=True)
        if arguments.scaling:
            self.alone.append(ours(arguments, self.case, 1))

    def report(self, arguments):
        def median(rows, column):
            return statistics.median(row[column] for row in rows)
        network, layers, precision, epochs = self.case
        pairs = list(zip(self.mine, self.theirs))
        if layers == "all":
            ratio = statistics.median(m[0] / t[0] for m, t in pairs)
            text = f"quadrat {median(self.mine, 0):6.1f} tiles/s, PyTorch {median(self.theirs, 0):6.1f}"
            gemm, = common.torchrun(__file__, arguments.ranks, ["--gemm", "--precision", precision])
            share = flops_per_tile(network) * median(self.mine, 0) / gemm
            text += f", GEMM share {share:.0%} of {gemm / 1e9:.0f} Gflop/s"
        else:
            ratio = statistics.median(t[1] / m[1] for m, t in pairs)
            text = f"quadrat {median(self.mine, 1):6.1f} s, PyTorch {median(self.theirs, 1):6.1f} s for {epochs} epochs"
        text += f", waiting {median(self.mine, 2):.1f} %"
        if self.alone:
            text += f", 1 -> {arguments.ranks} ranks {statistics.median(m[0] / a[0] for m, a in zip(self.mine, self.alone)):.2f}x"
        print(f"{self.name:29} {ratio:5.2f}x: {text}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiles", help="folder with train/ and validation/")
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--batch", type=int, default=64, help="over all ranks")
    parser.add_argument("--workers", type=int, default=1, help="of PyTorch's DataLoader, a rank")
    parser.add_argument("--augment", choices=["none", "dihedral"], help="what both do to tiles")
    parser.add_argument("--scaling", action="store_true", help="also run quadrat on one rank")
    parser.add_argument("--bin", default=os.path.join(common.ROOT, "build/release/bin"), help="folder of quadrat-finetune")
    for name in ("network", "layers", "precision", "epochs"):
        parser.add_argument(f"--{name}", type=int if name == "epochs" else str, help=argparse.SUPPRESS)
    for name in ("worker", "gemm"):
        parser.add_argument(f"--{name}", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.gemm:
        return gemm_worker(arguments)
    if arguments.worker:
        return worker(arguments)
    if not arguments.tiles:
        parser.error("--tiles is missing")
    comparisons = [Comparison(name) for name in arguments.cases]
    for _ in range(arguments.pairs):
        for comparison in comparisons:
            comparison.measure(arguments)
    for comparison in comparisons:
        comparison.report(arguments)


if __name__ == "__main__":
    main()
