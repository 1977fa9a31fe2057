#pragma once

#include <optional>
#include <string>
#include <utility>

#include "quadrat/mpi/communicator.h"
#include "quadrat/score/cpu_abilities.h"
#include "quadrat/score/plan.h"
#include "quadrat/tiles/catalog.h"
#include "quick_look.h"
#include "trial.h"

namespace quadrat::score {

/// How tiles are computed, and why so.
struct Engine {
  Precision precision = Precision::kFp32;
  std::string precision_reason;
  Calibration calibration;    ///< for int8
  std::string calibrated_on;  ///< likewise
  QuickLook look;
  std::string look_reason;
};

/// What is asked for, by the user or by an earlier start of the same run.
struct EngineWish {
  std::optional<Precision> precision;  ///< none: the quickest of little cost
  std::string precision_reason;
  bool cascade = false;
  double most_cost = 0;  ///< of the cascade in error, as a fraction of tiles
  std::optional<std::pair<QuickLook, std::string>> look;  ///< an earlier start's, with its reason
};

/// Collective; wish and tiles are rank 0's, and so is what is returned. Measures what is not known
/// yet about the model, and keeps it beside it.
/// @param to_score calibrated on where the training tiles are not to be found
/// @param wish a precision in it is one that `cpu` has
/// @return nothing, on all ranks, where one was asked to stop meanwhile
/// @throws Error, shared, where a cascade is wished for and there are no validation tiles to
///   measure it on, or int8 and no tiles to calibrate on
std::optional<Engine> choose_engine(const EngineWish& wish, const ModelFile& model,
                                    const Catalog& to_score, const CpuAbilities& cpu,
                                    const mpi::Communicator& ranks);

}  // namespace quadrat::score
