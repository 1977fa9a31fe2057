#pragma once

#include <cstddef>
#include <string>

#include "quadrat/base/files.h"
#include "quadrat/model/weights.h"
#include "quadrat/score/plan.h"
#include "quadrat/tiles/catalog.h"

namespace quadrat::score {

/// Ranges of a network's activations on a seeded sample of tiles, for int8.
/// @throws InputError where fewer than Plan::kTilesAtOnce of the tiles can be read
Calibration calibrate(WeightsFile weights, const ModelCard& card, const Path& model, const Catalog& tiles);

/// The training tiles that run.h5 beside the model names, or an empty catalog where they are not to be found.
Catalog find_training_tiles(const Path& run_folder);

/// For sending to other ranks.
Bytes serialize(const Calibration& calibration);
Calibration deserialize_calibration(const Bytes& bytes);

}  // namespace quadrat::score
