#pragma once

#include <cstdint>
#include <string>

#include "quadrat/base/files.h"
#include "quadrat/mpi/communicator.h"
#include "quadrat/record/run_record.h"

namespace quadrat::score {

/// What quadrat-score is asked; each named as its option.
struct ScoreOptions {
  Path tiles;
  std::string output_model_name;
  std::string name;  ///< of the scores; the model's where empty
  Path runs = "runs";
  Path scores = "scores";
  double sample_frac = 1;
  std::int64_t seed = 0;
  std::string precision = "auto";  ///< auto, fp32, bf16, int8 or int16
  std::string device = "auto";     ///< auto, cpu or cuda
  std::string resume = "auto";     ///< auto or never
  std::int64_t batch_size = 0;     ///< tiles a rank computes together; 0: what suits the network
  bool cascade = false;  ///< settle tiles by a look at their middle where it is sure; ResNet18 only
  double cascade_points = 0.3;  ///< what it may add to the error, in percent of validation tiles
  bool test_time_augmentation = false;  ///< the mean probabilities of 8 views of each tile
  Path features;                        ///< where what the head sees is written; empty: nowhere
  double watchdog_seconds = 60;         ///< a rank silent for so long ends the job; 0: never
  Settings as_used;                     ///< all of them, for the record
};

/// @throws UsageError naming the option. Needs no MPI.
void validate(const ScoreOptions& options);

struct ScoreSummary {
  enum class Outcome {
    kComplete,
    kAlreadyComplete,  ///< an earlier run of the same command had done it all
    kInterrupted,      ///< asked to stop; the same command goes on
  };
  Outcome outcome = Outcome::kComplete;
  Path folder;  ///< scores/NAME
  std::uint64_t tiles = 0;
  std::uint64_t rejected = 0;
  double seconds = 0;  ///< wall time from files to classes, over all starts
  double tiles_per_s = 0;
  double error = -1;  ///< fraction of tiles that are not of their folder's class; -1 where unknown
  std::string precision;
};

/// Classifies the tiles with the model runs/MODEL/model.safetensors and writes
/// scores/NAME/scores.h5 and predictions.csv. Collective; the summary is whole on rank 0 and has
/// its outcome on all.
///
/// Units of tiles are dealt to the ranks as they come, finished ones journaled in scores/NAME/, so
/// that whatever kills the run costs a unit a rank. A tile that cannot be read or decoded is listed
/// with its reason.
/// @throws InputError: no such model or tiles, tiles of another size than the model's, scores of
///   that name with other settings, a cascade without validation tiles to set its threshold on;
///   UsageError: a precision this CPU or GPU lacks, a cascade of AlexNet or on a GPU; IoError;
///   DeviceError
ScoreSummary score_tiles(const ScoreOptions& options, const mpi::Communicator& ranks);

}  // namespace quadrat::score
