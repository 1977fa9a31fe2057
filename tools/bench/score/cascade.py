"""quadrat-score --cascade on two ranks against OpenVINO's int8 with the same trained weights, from PNG files to classes:
medians of paired runs and their ratio, and what the cascade costs in error on tiles its threshold was not set on.

usage: cascade.py BUILD RUNS MODEL TILES FOLDER [--rounds N] [--points X]

BUILD holds bin/ (ninja quadrat-score), RUNS/MODEL is a ResNet18 that quadrat-finetune trained and whose validation tiles
are still there, TILES a labelled folder of other tiles, FOLDER takes results, converted networks and the peer's
environment. Needs Open MPI and tools/python_env.
"""

import argparse
import pathlib
import re
import statistics

from compare import HERE, MPI, peers_python, run


def main():
    parser = argparse.ArgumentParser(usage=__doc__)
    for name in ("build", "runs", "model", "tiles", "folder"):
        parser.add_argument(name, type=str if name == "model" else lambda p: pathlib.Path(p).resolve())
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--points", default="0.3")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    python = peers_python(options.folder)

    def ours(name, *words):
        text = run("mpirun", "-n", 2, "--oversubscribe", options.build / "bin/quadrat-score", "--tiles", options.tiles, "-o",
                   options.model, "--runs", options.runs, "--scores", options.folder / "scores", "--name", name, "--resume",
                   "never", *words, environment=MPI)
        return float(re.search(r"([\d.]+) tiles/s", text)[1]), float(re.search(r"error ([\d.]+) %", text)[1]) / 100

    cascade = ("--precision", "int8", "--cascade", "--cascade_points", options.points)
    peer = (python, HERE / "peers.py", "openvino", "files", options.runs / options.model / "model.safetensors", "int8",
            options.folder / f"cache_{options.model}", options.tiles)
    # What is measured or converted once.
    ours("cascade", *cascade)
    run(*peer)
    rows = []
    for i in range(options.rounds):
        rows.append((ours("whole", "--precision", "int8"), ours("cascade", *cascade), float(run(*peer).split()[-1])))
        print(f"  pair {i + 1}: whole {rows[-1][0][0]:.1f}, cascade {rows[-1][1][0]:.1f}, OpenVINO {rows[-1][2]:.1f} tiles/s",
              flush=True)
    full = ours("fp32", "--precision", "fp32")
    for i, what in enumerate(("int8, whole tiles", "int8, cascade")):
        ratio = statistics.median(row[i][0] / row[2] for row in rows)
        print(f"{what:20} {statistics.median(row[i][0] for row in rows):8.1f} tiles/s, {ratio:.2f}x OpenVINO int8, "
              f"error {100 * rows[-1][i][1]:.2f} %")
    print(f"{'fp32, whole tiles':20} {full[0]:8.1f} tiles/s, error {100 * full[1]:.2f} %")


main()
