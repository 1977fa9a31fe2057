// Writes records into a folder: a complete run, one that has just begun, and two years of a county,
// placed on the ground. What programs are tried on, and what others read without our code.
#include <cstdio>
#include <cstdlib>
#include <exception>

#include "made_records.h"
#include "placed_records.h"

int main(int argc, char** argv) {
  using namespace quadrat;
  if (argc < 2 || argc > 3) {
    std::fprintf(stderr, "usage: make_records DIR [TILES_ACROSS]\n");
    return 1;
  }
  try {
    const Path root = argv[1];
    const auto across = static_cast<std::uint32_t>(argc > 2 ? std::atoi(argv[2]) : 24);
    RunRecord run = test::made_run("made");
    make_folder(root / "runs" / "made");
    write_run_record(root / "runs" / "made" / "run.h5", run);
    RunRecord started = test::made_run("started", 1, 0, 0);
    started.status = RunStatus::kRunning;
    make_folder(root / "runs" / "started");
    write_run_record(root / "runs" / "started" / "run.h5", started);
    for (const int year : {1, 2}) {
      ScoreRecord scores =
          test::made_scores(static_cast<std::uint64_t>(year), across, 0.11 + 0.05 * year);
      test::place(scores, across, "EPSG:26919", 280000, 4710000, 224);
      const Path folder = root / "scores" / ("year" + std::to_string(year));
      make_folder(folder);
      write_score_record(folder / "scores.h5", scores);
    }
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 2;
  }
  return 0;
}
