#pragma once

#include <torch/torch.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "quadrat/model/forest.h"
#include "quadrat/model/weights.h"

namespace quadrat::score {

/// Length of what the head sees: the pooled 512 of ResNet18, the 4096 before AlexNet's last layer.
std::int64_t feature_count(Architecture architecture);

/// One step of a network as it is run: what follows a convolution (batch norm, addition, ReLU) is
/// part of it. Activations live in numbered slots; slot 0 is the input.
struct Layer {
  enum class Kind {
    kConvolution,  ///< [N, C, H, W] -> [N, C', H', W']
    kMaxPool,      ///< window `kernel`, of values that are not negative: it always follows a ReLU
    kAveragePool,  ///< to [N, C, side, side], with `side` = 1 the mean over the map
    kFlatten,      ///< [N, C, H, W] -> [N, H * W * C], in the order channels-last memory has anyway
    kLinear,       ///< [N, F] -> [N, F']
    kForest,       ///< [N, F] -> [N, classes], logarithms of probabilities; only as the head
  };
  Kind kind = Kind::kConvolution;
  std::string name;  ///< the weights' name in the file: "layer1.0.conv1"
  int input = 0;
  int output = 0;
  int addend = -1;  ///< slot that is added before the ReLU; it is overwritten; -1 for none
  std::int64_t kernel = 1;
  std::int64_t stride = 1;
  std::int64_t padding = 0;
  std::int64_t side = 1;
  bool relu = false;
  torch::Tensor
      weight;  ///< float32: [C', C, k, k] or [F', F]; linear layers after kFlatten in its order
  torch::Tensor bias;  ///< float32 [C'] or [F']
};

/// A network in the form inference wants. The last layer is the head: features in, logits out.
struct FusedNetwork {
  ModelCard card;
  std::vector<Layer> layers;
  int slots = 0;
  std::shared_ptr<const Forest> forest;  ///< of a head that is one
};

/// Builds the network from weights under torchvision's names, with batch norms folded into the
/// convolutions before them (w' = w g / sqrt(var + 1e-5), b' = beta - mean g / sqrt(var + 1e-5);
/// computed in float64). Takes the weights along, so that a large model is in memory once.
/// @throws InputError naming `path` and the tensor that is missing, of another shape, or not
///   finite; where the card makes no sense
FusedNetwork fuse_network(WeightsFile weights, ModelCard card, const Path& path);

/// AlexNet up to its flattened last map [N, 6 * 6 * 256], those being the features, under a head of
/// zeros. What the layers behind need may be missing. @throws as above
FusedNetwork fuse_alexnet_convolutions(WeightsFile weights, ModelCard card, const Path& path);

}  // namespace quadrat::score
