#include "quadrat/score/score.h"

#include <fmt/format.h>
#include <torch/torch.h>

#include "quadrat/base/error.h"
#include "quadrat/base/log.h"
#include "quadrat/base/progress.h"
#include "quadrat/base/signals.h"
#include "quadrat/cli/parser.h"
#include "quadrat/mpi/environment.h"
#include "quadrat/mpi/watchdog.h"

namespace {

using quadrat::score::ScoreSummary;

void add_options(quadrat::cli::Parser& parser, quadrat::score::ScoreOptions& options) {
  parser.group("What to score, with what");
  parser.add("tiles", options.tiles, "DIR",
             "folder of tiles: PNGs, folders of PNGs, or packed shards");
  parser.add("output_model_name,o", options.output_model_name, "NAME",
             "the model, by the name it was trained under");
  parser.add("runs", options.runs, "DIR",
             "folder that holds the model: DIR/NAME/model.safetensors");
  parser.add("sample_frac,f", options.sample_frac, "X",
             "score a seeded share of the tiles, 0 to 1");
  parser.add("seed", options.seed, "N", "of --sample_frac");
  parser.group("Results");
  parser.add("scores", options.scores, "DIR",
             "results go to DIR/NAME/scores.h5 and predictions.csv");
  parser.add("name", options.name, "NAME",
             "what the results are called; the model's name if not given");
  parser.add_choice("resume", options.resume, {"auto", "never"},
                    "auto: go on where the same command was stopped; never: score all tiles anew, "
                    "whatever was there");
  parser.add("features", options.features, "FILE",
             "also write what the network's last layer sees, a row a tile, to this HDF5 file");
  parser.group("How");
  parser.add_choice("precision", options.precision, {"auto", "fp32", "bf16", "int8", "int16"},
                    "numbers to compute in; auto: the quickest within 0.3 points of fp32's error "
                    "on the model's validation tiles");
  parser.add_choice("device", options.device, {"auto", "cpu", "cuda"},
                    "auto: GPUs where every rank has one; bf16 or fp32 there");
  parser.add("cascade", options.cascade,
             "resnet18: look at the middle of each tile first and compute only those whole that it "
             "is not sure of");
  parser.add(
      "cascade_points", options.cascade_points, "X",
      "what --cascade may add to the error on the model's validation tiles, in percent of them");
  parser.add(
      "test_time_augmentation", options.test_time_augmentation,
      "mean probabilities of the 8 flips and quarter turns of each tile; takes 8 times as long");
  parser.add("batch_size", options.batch_size, "N",
             "tiles a rank computes together; 0: what suits the network");
  parser.add(
      "watchdog_seconds", options.watchdog_seconds, "X",
      "a rank that gives no sign of life for so long ends the job, to be started again; 0: never");
  parser.require({"tiles", "output_model_name"});
}

int report(const ScoreSummary& summary, bool is_root) {
  const bool is_interrupted = summary.outcome == ScoreSummary::Outcome::kInterrupted;
  if (is_root) {
    if (summary.error >= 0) fmt::print("error {:.2f} %\n", 100 * summary.error);
    // No precision was chosen yet where it was interrupted before.
    if (!summary.precision.empty()) {
      fmt::print("{}: {} tiles scored, {} rejected, {}, {:.1f} tiles/s, {}\n",
                 summary.folder.native(), summary.tiles, summary.rejected,
                 quadrat::format_duration(summary.seconds), summary.tiles_per_s, summary.precision);
    }
    if (summary.outcome == ScoreSummary::Outcome::kAlreadyComplete) {
      quadrat::log::line("'{}' is complete; there is nothing to do", summary.folder.native());
    }
    if (is_interrupted) quadrat::log::line("interrupted; start the same command again to go on");
  }
  return is_interrupted ? quadrat::kExitInterrupted : quadrat::kExitDone;
}

}  // namespace

int main(int argc, char** argv) {
  quadrat::score::ScoreOptions options;
  quadrat::cli::Parser parser("quadrat-score",
                              "classifies tiles with a trained model, on one or many ranks",
                              "  mpirun -n 8 quadrat-score --tiles county/tiles -o resnet18_all\n");
  add_options(parser, options);
  return quadrat::cli::run(parser, argc, argv, [&] {
    quadrat::score::validate(options);
    options.as_used = parser.as_used();
    quadrat::catch_stop_signals();
    at::set_num_threads(1);
    const quadrat::mpi::Environment environment;
    const auto ranks = quadrat::mpi::Communicator::world();
    const quadrat::mpi::Watchdog watchdog(ranks, options.watchdog_seconds);
    quadrat::log::set_origin(parser.program(), ranks.size() > 1 ? ranks.rank() : -1);
    return report(quadrat::score::score_tiles(options, ranks), ranks.is_root());
  });
}
