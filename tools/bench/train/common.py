"""What the comparisons with PyTorch share: how either side is started, and what both do to a tile."""
import os
import subprocess
import sys

import torch

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))
MEAN, STD = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1), torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)


def dihedral(pixels, generator=None):
    """One of the 8 flips and quarter turns of [C, H, W]."""
    k, mirror = torch.randint(4, (), generator=generator).item(), torch.randint(2, (), generator=generator).item()
    pixels = torch.rot90(pixels, k, (1, 2))
    return pixels.flip(2) if mirror else pixels


def torchrun(script, ranks, words):
    """Runs `script --worker WORDS` on so many ranks of one thread each.

    @return the words of the line that begins with RESULT, as numbers
    """
    words = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(ranks), "--master-addr", "127.0.0.1",
             "--master-port", "29511", os.path.abspath(script), "--worker", *map(str, words)]
    done = subprocess.run(words, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT")]
    if not lines:
        sys.exit(done.stderr)
    return [float(word) for word in lines[0].split()[1:]]


def finetune(bin_folder, ranks, words):
    """Runs quadrat-finetune on so many ranks of one thread each. @return what it wrote to stdout and to stderr"""
    words = ["mpirun", "--oversubscribe", "--bind-to", "none", *(["--allow-run-as-root"] if os.geteuid() == 0 else []), "-n",
             str(ranks), os.path.join(bin_folder, "quadrat-finetune"), "--threads", "1", *map(str, words)]
    done = subprocess.run(words, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr)
    return done.stdout, done.stderr
