#pragma once

#include <optional>
#include <string>

#include "quadrat/weights/weights_file.h"

namespace quadrat {

/// The network that tensors of these names and shapes belong to.
struct ArchitectureGuess {
  std::string name;          ///< "alexnet" or "resnet18"
  std::int64_t classes = 0;  ///< rows of the last layer
};

/// None where they are neither of the two networks that quadrat trains.
std::optional<ArchitectureGuess> guess_architecture(const WeightsFile& weights);

/// Smallest, largest and mean of the finite values, and how many are not finite.
struct ValueSummary {
  double min = 0;
  double max = 0;
  double mean = 0;
  std::int64_t not_finite = 0;
};
ValueSummary summarise(const StoredTensor& tensor);

/// What quadrat-weights show prints: the network, the metadata, a table of the tensors.
std::string describe(const WeightsFile& weights, const Path& path);

}  // namespace quadrat
