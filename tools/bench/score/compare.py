"""quadrat-score on two ranks against OpenVINO, ONNX Runtime and PyTorch on the same cores: medians of paired runs and
their ratio, forward alone and from PNG files to classes, beside what the cores reach multiplying large matrices.

usage: compare.py BUILD TILES FOLDER [--rounds N] [--peers openvino,...] [--modes forward,files] [--precisions ...]
                  [--architectures resnet18,alexnet] [--tiles N]

BUILD holds bin/ and tests/ (ninja quadrat-score bench_score_forward), TILES is a folder of 224x224 PNGs that is linked to
until there are N of them (default 1440), FOLDER takes models, converted networks and an environment with the peers.
Models have random weights: speed does not depend on them. int16, which peers have not, is compared with their int8, and with
large matrices of float32. Needs Open MPI and tools/python_env.
"""

import argparse
import os
import pathlib
import re
import statistics
import subprocess

HERE = pathlib.Path(__file__).resolve().parent
PACKAGES = ["openvino==2026.4.1", "nncf==3.4.0", "onnx", "onnxruntime==1.31.1", "onnxscript", "opencv-python-headless"]
MPI = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1", "OMP_NUM_THREADS": "1"}


def run(*command, environment=None):
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, env={**os.environ, **(environment or {})})
    if done.returncode != 0:
        raise SystemExit(f"{command[0]} failed: {done.stderr[-2000:]}")
    return done.stdout


def peers_python(folder):
    """An environment with the peers on top of tools/python_env, made once."""
    python = folder / "venv/bin/python"
    if not (folder / "venv/ready").exists():
        base = run(HERE.parents[1] / "python_env").strip().splitlines()[-1]
        run(base, "-m", "venv", folder / "venv")
        run(python, "-m", "pip", "install", "-q", *PACKAGES)
        site = "import sysconfig; print(sysconfig.get_path('purelib'))"
        (pathlib.Path(run(python, "-c", site).strip()) / "base.pth").write_text(
            f"import site; site.addsitedir({run(base, '-c', site).strip()!r})\n"
        )
        (folder / "venv/ready").touch()
    return python


def link_tiles(source, folder, count):
    originals = sorted(source.rglob("*.png"))
    if not originals:
        raise SystemExit(f"no .png below {source}")
    folder.mkdir(exist_ok=True)
    for i in range(count):
        link = folder / f"t{i:05}.png"
        if not link.exists():
            link.symlink_to(originals[i % len(originals)].resolve())
    return folder


def ours(build, model, architecture, precision, mode, tiles, folder, seconds, ranks=2):
    """@return tiles a second, and the large matrices' where forward alone is measured"""
    if mode == "forward":
        text = run("mpirun", "-n", ranks, "--oversubscribe", build / "tests/bench_score_forward", model, precision, seconds,
                   environment=MPI)
        numbers = re.findall(r"([\d.]+) tiles/s", text)
        return float(numbers[0]), float(re.search(r": ([\d.]+) tiles/s at that rate", text)[1])
    text = run("mpirun", "-n", ranks, "--oversubscribe", build / "bin/quadrat-score", "--tiles", tiles, "-o", architecture,
               "--runs", folder / "runs", "--scores", folder / "scores", "--name", f"{architecture}_{precision}",
               "--precision", precision, "--resume", "never", environment=MPI)
    return float(re.search(r"([\d.]+) tiles/s", text)[1]), None


def main():
    parser = argparse.ArgumentParser(usage=__doc__)
    parser.add_argument("build", type=lambda p: pathlib.Path(p).resolve())
    parser.add_argument("tiles_from", type=pathlib.Path)
    parser.add_argument("folder", type=lambda p: pathlib.Path(p).resolve())
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tiles", type=int, default=1440)
    parser.add_argument("--seconds", type=float, default=3)
    for name, values in (("peers", "openvino,onnxruntime,torch"), ("modes", "forward,files"),
                         ("precisions", "fp32,bf16,int8"), ("architectures", "resnet18,alexnet")):
        parser.add_argument(f"--{name}", type=lambda text: text.split(","), default=values.split(","))
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    python = peers_python(options.folder)
    tiles = link_tiles(options.tiles_from, options.folder / "tiles", options.tiles)
    print(f"{'':28} {'ours/s':>8} {'peer/s':>8} {'ratio':>6}   medians of {options.rounds} pairs")
    for architecture in options.architectures:
        model = options.folder / f"runs/{architecture}/model.safetensors"
        if not model.exists():
            model.parent.mkdir(parents=True)
            run(python, HERE / "peers.py", "make", architecture, model)
        for mode in options.modes:
            for precision in options.precisions:
                for peer in options.peers:
                    theirs = "int8" if precision == "int16" else precision  # what they have on CPUs with AVX2 only
                    if (peer, theirs) in (("onnxruntime", "bf16"), ("torch", "int8")):
                        continue
                    what = options.seconds if mode == "forward" else tiles
                    command = [python, HERE / "peers.py", peer, mode, model, theirs, options.folder / "cache", what]
                    run(*command[:-1], 1 if mode == "forward" else tiles)  # converts, and finds its best batch
                    pairs, limit = [], None
                    for _ in range(options.rounds):
                        mine, limit = ours(options.build, model, architecture, precision, mode, tiles, options.folder,
                                           options.seconds)
                        pairs.append((mine, float(run(*command).split()[-1])))
                    ratio = statistics.median(a / b for a, b in pairs)
                    mine, peers = (statistics.median(values) for values in zip(*pairs))
                    bound = f"   large matrices: {limit:.0f}/s" if limit else ""
                    print(f"{architecture + ' ' + precision + ' ' + mode:20} {peer:>11}"[:32].ljust(32), end="")
                    print(f"{mine:8.1f} {peers:8.1f} {ratio:6.2f}{bound}", flush=True)


if __name__ == "__main__":
    main()
