"""How much of the change between two years of a make-believe county quadrat-report finds.

usage: change.py BIN RUNS MODEL [TILES_ACROSS [FOLDER]]
  BIN    where the programs are
  RUNS   folder of runs, MODEL the run to score with: trained on counties of other seeds (tools/quickstart makes one)

FOLDER keeps all that is made, the report among it.

Paints both years of county 77 (TILES_ACROSS, default 40), scores every tile of both and compares what
`quadrat-report --versus` calls changed with the truth: the land cover both years were painted from. The truth is known
for tiles whose nine points agree in either year. Precision is the share of the tiles called changed that are; recall
the share of those that changed that were called so. `from and to` asks for both classes to be right as well.
"""
import csv
import os
import sqlite3
import subprocess
import sys
import tempfile

SEED = 77


def run(bin_dir, program, *arguments, ranks=None):
    launch = [] if ranks is None else ["mpirun", "-n", str(ranks), "--oversubscribe"]
    done = subprocess.run([*launch, os.path.join(bin_dir, program), *map(str, arguments)], capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{program} {arguments}: exit {done.returncode}\n{done.stderr}")


def place(row):
    return round(float(row["llcrnrlat"]), 5), round(float(row["llcrnrlon"]), 5)


def summaries(folder):
    with open(os.path.join(folder, "tile_summaries.csv"), newline="") as f:
        return {row["filename"]: place(row) for row in csv.DictReader(f)}


def main():
    if not 4 <= len(sys.argv) <= 6:
        sys.exit(__doc__)
    bin_dir, runs, model = sys.argv[1:4]
    across = sys.argv[4] if len(sys.argv) > 4 else "40"
    os.environ.update(OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1")
    with tempfile.TemporaryDirectory() as folder:
        folder = sys.argv[5] if len(sys.argv) > 5 else folder
        make(bin_dir, runs, model, across, folder)
        evaluate(folder)


def make(bin_dir, runs, model, across, folder):
    for year in 0, 1:
        at = os.path.join(folder, str(year))
        run(bin_dir, "quadrat-synth", "--output", at, "--seed", SEED, "--tiles_across", across, "--year", year,
            "--name", "county")
        image = ["--image", os.path.join(at, "county.tif")]
        run(bin_dir, "quadrat-cut", *image, "--output", os.path.join(at, "flat"))
        run(bin_dir, "quadrat-cut", *image, "--nlcd", os.path.join(at, "county_nlcd.tif"), "--output",
            os.path.join(at, "labelled"))
        run(bin_dir, "quadrat-score", "--tiles", os.path.join(at, "flat"), "-o", model, "--runs", runs, "--scores",
            os.path.join(folder, "scores"), "--name", f"year{year}", ranks=2)
    run(bin_dir, "quadrat-report", "--run", os.path.join(runs, model), "--scores", "year1", "--versus", "year0",
        "--scores_folder", os.path.join(folder, "scores"), "--output", os.path.join(folder, "report"), "--tile_summaries",
        os.path.join(folder, "1", "flat", "tile_summaries.csv"))


def evaluate(folder):
    truth = {}
    for year in 0, 1:
        for name, at in summaries(os.path.join(folder, str(year), "labelled")).items():
            truth.setdefault(at, {})[year] = name.split("/")[0]
    where = summaries(os.path.join(folder, "1", "flat"))
    tiles = sqlite3.connect(os.path.join(folder, "report", "tiles.gpkg"))
    tiles.row_factory = sqlite3.Row
    rows = [dict(row) for row in tiles.execute("select * from tiles")]
    total = len(rows)
    rows = [(row, truth[where[row["tile"]]]) for row in rows if len(truth.get(where[row["tile"]], {})) == 2]
    changed = sum(t[0] != t[1] for _, t in rows)
    wrong = [sum(row[column] != t[year] for row, t in rows) / len(rows)
             for column, year in (("class_before", 0), ("class", 1))]
    print(f"{total} tiles, truth known for {len(rows)}, of which {changed} changed; "
          f"the model errs on {100 * wrong[0]:.1f} % and {100 * wrong[1]:.1f} % of them")
    print(f"{'':24} {'called':>7} {'precision':>10} {'recall':>8}   from and to right: precision, recall")
    for what, before, now in (("raw", "class_before", "class"), ("smoothed", "smoothed_before", "smoothed")):
        called = [(row, t) for row, t in rows if row[before] != row[now]]
        hits = sum(t[0] != t[1] for _, t in called)
        exact = sum(t[0] != t[1] and (row[before], row[now]) == (t[0], t[1]) for row, t in called)
        print_row(what, len(called), hits, exact, changed)
    # What the report lists as surest: raw change that smoothing leaves as it is.
    called = [(row, t) for row, t in rows
              if row["class_before"] != row["class"]
              and (row["class_before"], row["class"]) == (row["smoothed_before"], row["smoothed"])]
    print_row("both (the report's list)", len(called), sum(t[0] != t[1] for _, t in called),
              sum((row["class_before"], row["class"]) == (t[0], t[1]) for row, t in called), changed)
    # The list from its top: as many as there are true ones.
    known = {row["tile"]: (row, t) for row, t in rows}
    with open(os.path.join(folder, "report", "changes.csv"), newline="") as f:
        surest = sorted(csv.DictReader(f), key=lambda row: (row["settled"] != "1", -float(row["certainty"])))
    called = [known[row["tile"]] for row in surest if row["tile"] in known][:changed]
    print_row(f"the {changed} at its top", len(called), sum(t[0] != t[1] for _, t in called),
              sum((row["class_before"], row["class"]) == (t[0], t[1]) for row, t in called), changed)


def print_row(what, called, hits, exact, changed):
    print(f"{what:24} {called:7} {100 * hits / max(1, called):8.1f} % {100 * hits / max(1, changed):6.1f} %   "
          f"{100 * exact / max(1, called):.1f} %, {100 * exact / max(1, changed):.1f} %")


if __name__ == "__main__":
    main()
