#pragma once

#include <torch/torch.h>

#include <string>
#include <string_view>
#include <vector>

#include "quadrat/model/network.h"
#include "quadrat/weights/weights_file.h"

namespace quadrat {

/// What model.safetensors says of itself, as its metadata.
struct ModelCard {
  Architecture architecture = Architecture::kResNet18;
  std::vector<std::string> classes;  ///< in index order
  std::array<float, 3> mean = kImageNetMean;
  std::array<float, 3> std = kImageNetStd;
  std::uint32_t tile_px = kTileSide_px;
  Retraining retraining = Retraining::kAll;
  std::string classifier;  ///< of quadrat-fit: logistic_regression or random_forest; empty for a
                           ///< fine-tuned network
};

/// The classifier whose model has a forest (see forest.h) where the network has its last layer.
inline constexpr std::string_view kRandomForest = "random_forest";

/// Copies a file's tensors into the network. The last layer is left as it is where the file's has
/// another number of classes. Tensors of half precision are widened.
/// @returns whether the last layer was loaded too
/// @throws InputError naming the file: weights of another network, a missing or misshapen tensor
bool load_weights(Network& network, const WeightsFile& weights, const Path& path);

/// The network's parameters and buffers under torchvision's names: float32, and int64 for batch
/// norm's num_batches_tracked.
/// @param under only those whose names begin so
WeightsFile to_weights_file(const Network& network, const ModelCard& card,
                            std::string_view under = {});

/// @throws InputError where the metadata is not what to_weights_file writes
ModelCard read_model_card(const WeightsFile& weights, const Path& path);

/// A copy of the tensor, from whatever device it is on, in its own shape and type.
StoredTensor to_stored(const std::string& name, const torch::Tensor& tensor);
/// A copy on the CPU, in the stored shape and type; `data` must have as many bytes as they need.
torch::Tensor to_tensor(const StoredTensor& stored);

/// Likewise, in the memory that `stored` had, which is left without data.
torch::Tensor to_tensor(StoredTensor&& stored);

}  // namespace quadrat
