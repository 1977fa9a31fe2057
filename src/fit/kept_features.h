#pragma once

#include <torch/torch.h>

#include <span>
#include <string>

#include "quadrat/base/files.h"
#include "quadrat/record/run_record.h"
#include "quadrat/tiles/training_sets.h"
#include "quadrat/weights/weights_file.h"

namespace quadrat::fit {

/// A contiguous float32 tensor's values, row by row.
std::span<const float> values_of(const torch::Tensor& rows);

/// What the features of two sets follow from, so that kept ones can be told from others: the
/// network and its weights, which tiles in which order with which labels, and the numbers they are
/// computed in.
Settings features_depend_on(const std::string& network, const WeightsFile& weights,
                            const std::string& precision, const TrainingSets& sets);

/// Whether the file is there. @throws InputError where it is, but holds what follows from something
/// else
bool are_kept(const Path& path, const Settings& made_of);

/// @param train, validation [tiles, width] float32 @throws IoError
void keep(const Path& path, const Settings& made_of, const TrainingSets& sets,
          const torch::Tensor& train, const torch::Tensor& validation);

}  // namespace quadrat::fit
