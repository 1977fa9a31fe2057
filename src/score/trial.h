#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "quadrat/base/files.h"
#include "quadrat/model/weights.h"
#include "quadrat/mpi/communicator.h"
#include "quadrat/score/plan.h"
#include "quadrat/tiles/catalog.h"
#include "quick_look.h"

namespace quadrat::score {

/// A model's file, and how a rank gets at what is in it.
struct ModelFile {
  Path path;
  std::uint32_t crc32 = 0;             ///< on rank 0
  ModelCard card;                      ///< on rank 0
  std::function<WeightsFile()> fetch;  ///< the weights, anew each time it is called; collective
};

/// The model as a plan. Collective.
/// @param batch 0: what suits the network
/// @param side_px of the tiles it takes; 0: the model's
/// @param calibration for int8
/// @param may_use_amx it is used where every rank has it
Plan compile(const ModelFile& model, Precision precision, std::int64_t batch, std::uint32_t side_px,
             const Calibration& calibration, const mpi::Communicator& ranks,
             torch::Device device = torch::kCPU, bool may_use_amx = true);

/// What a cascade costs in error and brings in speed, beside the same network in the same precision
/// on whole tiles.
struct CascadeTrial {
  Precision precision = Precision::kFp32;
  double most_cost = 0;  ///< that was allowed: a fraction of tiles
  QuickLook
      look;  ///< the quickest within that cost; none where none is quicker than the whole network
  std::uint64_t tiles = 0;    ///< validation tiles that were looked at; 0: nothing was tried
  std::uint64_t settled = 0;  ///< of them, by the look
  std::uint64_t wrong = 0;
  std::uint64_t wrong_whole = 0;
  double tiles_per_s = 0;  ///< of one rank, computing alone
  double tiles_per_s_whole = 0;

  std::string description() const;
};

/// What is found out about a model once, on the tiles it was trained and validated with, and kept
/// beside it: the ranges that int8 needs, and what each precision costs in error and brings in
/// speed.
struct Trial {
  struct Outcome {
    Precision precision = Precision::kFp32;
    std::uint64_t wrong = 0;  ///< tiles whose class is not their folder's
    double tiles_per_s = 0;   ///< of one rank, computing alone
  };
  std::uint32_t model_crc32 = 0;
  std::string cpu;          ///< what the ranks' CPUs can do: speeds hold for such
  Calibration calibration;  ///< no groups where nothing was calibrated
  std::string calibrated_on;
  std::uint64_t tiles = 0;  ///< validation tiles that were looked at; 0: costs are unknown
  std::string validated_on;
  std::vector<Outcome> outcomes;  ///< fp32 first
  CascadeTrial cascade;

  /// The quickest precision whose error is at most `most_cost` (a fraction) above fp32's.
  Precision best(double most_cost) const;
  /// "fp32 12.34 % wrong at 40.1 tiles/s, ..."
  std::string description() const;
};

/// Tiles for a trial. Made on rank 0 and broadcast.
struct TrialTiles {
  Catalog calibration;              ///< seeded and bounded, in the order they are taken
  bool has_training_tiles = false;  ///< on rank 0: calibration's are those of the model's training
  Catalog validation;  ///< likewise, labelled in the model's classes; empty where there are none to
                       ///< be found

  /// From the training and validation folders that run.h5 beside the model names.
  /// @param otherwise calibrated on where the training tiles are not to be found
  static TrialTiles find(const Path& run_folder, const ModelCard& card, const Catalog& otherwise);
  void broadcast(const mpi::Communicator& ranks);
};

/// Collective: the tiles are dealt over the ranks, and what comes out does not depend on how many
/// there are. The outcomes are whole on rank 0.
/// @param candidates what to try beside fp32, int8 only where there are tiles to calibrate on; none
/// to calibrate alone
/// @return nothing where a rank was asked to stop meanwhile
/// @throws Error, shared, where there are no candidates and no Plan::kTilesAtOnce tiles to
/// calibrate on can be read
std::optional<Trial> try_precisions(const ModelFile& model, const TrialTiles& tiles,
                                    std::vector<Precision> candidates,
                                    const mpi::Communicator& ranks);

/// Collective, likewise; whole on rank 0.
/// @param validation not empty, labelled in the model's classes
/// @param calibration for int8
std::optional<CascadeTrial> try_cascade(const ModelFile& model, const Catalog& validation,
                                        Precision precision, const Calibration& calibration,
                                        double most_cost, const mpi::Communicator& ranks);

/// runs/NAME/score_trial.json, or an empty trial where there is none, or one of another model or
/// CPU.
Trial read_trial(const Path& run_folder, std::uint32_t model_crc32, const std::string& cpu);
/// A folder that cannot be written to is no error: the next run tries again.
void write_trial(const Path& run_folder, const Trial& trial);

/// For sending to other ranks and for fingerprints.
Bytes serialize(const Calibration& calibration);
Calibration deserialize_calibration(const Bytes& bytes);

}  // namespace quadrat::score
