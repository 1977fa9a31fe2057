#include "quadrat/score/network.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <cmath>
#include <set>

#include "quadrat/base/error.h"
#include "quadrat/base/text.h"
#include "quadrat/model/batch_norm.h"

namespace quadrat::score {

namespace {

constexpr const char* kRemedy = "name a model that quadrat-finetune or quadrat-fit wrote";

void check_card(const ModelCard& card, const Path& path) {
  const auto refuse = [&](const std::string& finding) {
    throw InputError("use model", path.native(), finding, kRemedy);
  };
  constexpr std::size_t kMaxClasses = 65535;  // predictions are stored as u2
  if (card.classes.empty() || card.classes.size() > kMaxClasses) {
    refuse(fmt::format("its metadata lists {} classes, but 1 to {} are expected",
                       card.classes.size(), kMaxClasses));
  }
  std::set<std::string> seen;
  for (const std::string& name : card.classes) {
    if (!is_plain_name(name))
      refuse(fmt::format("its class '{}' is no plain name", printable(name)));
    if (!seen.insert(name).second) refuse(fmt::format("its metadata lists class '{}' twice", name));
  }
  for (std::size_t c = 0; c < 3; ++c) {
    if (!std::isfinite(card.mean[c]) || !std::isfinite(card.std[c]) || card.std[c] <= 0) {
      refuse("its metadata's mean and std are not finite, or a std is not above 0");
    }
  }
  constexpr std::uint32_t kMinTile_px = 64;  // AlexNet's last pooling needs that much
  constexpr std::uint32_t kMaxTile_px = 1024;
  if (card.tile_px < kMinTile_px || card.tile_px > kMaxTile_px) {
    refuse(fmt::format("its tile_px is {}, but {} to {} is expected", card.tile_px, kMinTile_px,
                       kMaxTile_px));
  }
}

/// Takes tensors out of a weights file, checking each.
class Builder {
 public:
  Builder(WeightsFile weights, ModelCard card, const Path& path)
      : weights_(std::move(weights)), path_(path) {
    network_.card = std::move(card);
  }

  int convolution(const std::string& name, const std::string& norm, int input,
                  std::int64_t channels_in, std::int64_t channels_out, std::int64_t kernel,
                  std::int64_t stride, std::int64_t padding, bool relu, int addend = -1) {
    Layer layer;
    layer.kind = Layer::Kind::kConvolution;
    layer.name = name;
    layer.kernel = kernel;
    layer.stride = stride;
    layer.padding = padding;
    layer.relu = relu;
    layer.weight = take(name + ".weight", {channels_out, channels_in, kernel, kernel});
    if (norm.empty()) {
      layer.bias = take(name + ".bias", {channels_out});
    } else {
      const auto gamma = take(norm + ".weight", {channels_out}).to(torch::kFloat64);
      const auto beta = take(norm + ".bias", {channels_out}).to(torch::kFloat64);
      const auto mean = take(norm + ".running_mean", {channels_out}).to(torch::kFloat64);
      const auto variance = take(norm + ".running_var", {channels_out}).to(torch::kFloat64);
      if ((variance < 0).any().item<bool>()) {
        throw InputError("use model", path_.native(),
                         fmt::format("'{}.running_var' has negative values", norm));
      }
      const auto factor = gamma / torch::sqrt(variance + kBatchNormEpsilon);
      layer.weight =
          (layer.weight.to(torch::kFloat64) * factor.view({-1, 1, 1, 1})).to(torch::kFloat32);
      layer.bias = (beta - mean * factor).to(torch::kFloat32);
    }
    if (addend >= 0) {
      layer.addend = addend;
      return put(std::move(layer), input, addend);
    }
    return put(std::move(layer), input);
  }

  int max_pool(int input, std::int64_t kernel, std::int64_t stride, std::int64_t padding) {
    Layer layer;
    layer.kind = Layer::Kind::kMaxPool;
    layer.kernel = kernel;
    layer.stride = stride;
    layer.padding = padding;
    return put(std::move(layer), input);
  }

  int average_pool(int input, std::int64_t side) {
    Layer layer;
    layer.kind = Layer::Kind::kAveragePool;
    layer.side = side;
    return put(std::move(layer), input);
  }

  int flatten(int input) {
    Layer layer;
    layer.kind = Layer::Kind::kFlatten;
    return put(std::move(layer), input);
  }

  /// @param map_side 0, or the side of the map that was flattened: torch flattens [C, H, W], we [H,
  /// W, C]
  int linear(const std::string& name, int input, std::int64_t features_in,
             std::int64_t features_out, bool relu, std::int64_t map_side = 0) {
    Layer layer;
    layer.kind = Layer::Kind::kLinear;
    layer.name = name;
    layer.relu = relu;
    layer.weight = take(name + ".weight", {features_out, features_in});
    layer.bias = take(name + ".bias", {features_out});
    if (map_side > 0) {
      // In place, some rows at a time: AlexNet's take 150 MB.
      for (const torch::Tensor& rows : layer.weight.split(64)) {
        const torch::Tensor maps = rows.view({rows.size(0), -1, map_side * map_side});
        rows.copy_(maps.transpose(1, 2).reshape(rows.sizes()));
      }
    }
    return put(std::move(layer), input);
  }

  /// A last layer of zeros, for a network of which only the features are wanted.
  void no_head(int input, std::int64_t features, std::int64_t classes) {
    Layer layer;
    layer.kind = Layer::Kind::kLinear;
    layer.name = "none";
    layer.weight = torch::zeros({classes, features});
    layer.bias = torch::zeros({classes});
    put(std::move(layer), input);
  }

  /// The last layer, or the forest in its place.
  void head(const std::string& name, int input, std::int64_t features, std::int64_t classes) {
    if (network_.card.classifier != kRandomForest) {
      linear(name, input, features, classes, false);
      return;
    }
    network_.forest = std::make_shared<const Forest>(Forest::from_weights(
        weights_, static_cast<std::int32_t>(features), static_cast<std::int32_t>(classes), path_));
    Layer layer;
    layer.kind = Layer::Kind::kForest;
    layer.name = "forest";
    put(std::move(layer), input);
  }

  FusedNetwork finish() { return std::move(network_); }

 private:
  int put(Layer layer, int input, int output = -1) {
    layer.input = input;
    layer.output = output >= 0 ? output : ++last_slot_;
    network_.layers.push_back(std::move(layer));
    network_.slots = last_slot_ + 1;
    return network_.layers.back().output;
  }

  torch::Tensor take(const std::string& name, const std::vector<std::int64_t>& shape) {
    StoredTensor* found = nullptr;
    for (StoredTensor& tensor : weights_.tensors) {
      if (tensor.name == name) found = &tensor;
    }
    if (found == nullptr) {
      throw InputError("use model", path_.native(), fmt::format("it has no tensor '{}'", name),
                       kRemedy);
    }
    if (found->shape != shape) {
      throw InputError("use model", path_.native(),
                       fmt::format("tensor '{}' is [{}], but [{}] is expected", name,
                                   fmt::join(found->shape, ", "), fmt::join(shape, ", ")));
    }
    if (found->dtype != DType::kF32 && found->dtype != DType::kF64 && found->dtype != DType::kF16 &&
        found->dtype != DType::kBF16) {
      throw InputError("use model", path_.native(),
                       fmt::format("tensor '{}' is {}, but a floating-point type is needed", name,
                                   to_string(found->dtype)));
    }
    auto result = to_tensor(std::move(*found)).to(torch::kFloat32);
    // Not by their sum, of which torch makes a copy in float64. NaN is both least and greatest.
    const auto [least, greatest] = result.aminmax();
    if (!std::isfinite(least.item<float>()) || !std::isfinite(greatest.item<float>())) {
      throw InputError("use model", path_.native(),
                       fmt::format("tensor '{}' holds values that are not finite", name),
                       "the training that made it diverged");
    }
    return result;
  }

  WeightsFile weights_;
  const Path& path_;
  FusedNetwork network_;
  int last_slot_ = 0;
};

// torchvision.models.resnet18 and alexnet, layer by layer.

void build_resnet18(Builder& b, std::int64_t classes) {
  int x = b.convolution("conv1", "bn1", 0, 3, 64, 7, 2, 3, true);
  x = b.max_pool(x, 3, 2, 1);
  std::int64_t width = 64;
  for (int stage = 1; stage <= 4; ++stage) {
    const std::int64_t width_out = std::int64_t{32} << stage;
    for (int block = 0; block < 2; ++block) {
      const std::string name = fmt::format("layer{}.{}.", stage, block);
      const bool halves = stage > 1 && block == 0;
      const int inner = b.convolution(name + "conv1", name + "bn1", x, width, width_out, 3,
                                      halves ? 2 : 1, 1, true);
      if (halves) {
        x = b.convolution(name + "downsample.0", name + "downsample.1", x, width, width_out, 1, 2,
                          0, false);
      }
      x = b.convolution(name + "conv2", name + "bn2", inner, width_out, width_out, 3, 1, 1, true,
                        x);
      width = width_out;
    }
  }
  x = b.average_pool(x, 1);
  x = b.flatten(x);
  b.head("fc", x, 512, classes);
}

constexpr std::int64_t kAlexNetMap = 256 * 6 * 6;

/// @return the slot of the flattened last map
int build_alexnet_convolutions(Builder& b, std::uint32_t tile_px) {
  int x = b.convolution("features.0", "", 0, 3, 64, 11, 4, 2, true);
  x = b.max_pool(x, 3, 2, 0);
  x = b.convolution("features.3", "", x, 64, 192, 5, 1, 2, true);
  x = b.max_pool(x, 3, 2, 0);
  x = b.convolution("features.6", "", x, 192, 384, 3, 1, 1, true);
  x = b.convolution("features.8", "", x, 384, 256, 3, 1, 1, true);
  x = b.convolution("features.10", "", x, 256, 256, 3, 1, 1, true);
  x = b.max_pool(x, 3, 2, 0);
  if (tile_px != 224) x = b.average_pool(x, 6);  // at 224 px the map is 6x6 already
  return b.flatten(x);
}

void build_alexnet(Builder& b, std::int64_t classes, std::uint32_t tile_px) {
  int x = build_alexnet_convolutions(b, tile_px);
  x = b.linear("classifier.1", x, kAlexNetMap, 4096, true, 6);
  x = b.linear("classifier.4", x, 4096, 4096, true);
  b.head("classifier.6", x, 4096, classes);
}

}  // namespace

std::int64_t feature_count(Architecture architecture) {
  return architecture == Architecture::kAlexNet ? 4096 : 512;
}

FusedNetwork fuse_network(WeightsFile weights, ModelCard card, const Path& path) {
  const torch::InferenceMode guard;
  check_card(card, path);
  const Architecture architecture = card.architecture;
  const auto classes = static_cast<std::int64_t>(card.classes.size());
  const std::uint32_t tile_px = card.tile_px;
  Builder builder(std::move(weights), std::move(card), path);
  if (architecture == Architecture::kAlexNet) {
    build_alexnet(builder, classes, tile_px);
  } else {
    build_resnet18(builder, classes);
  }
  return builder.finish();
}

FusedNetwork fuse_alexnet_convolutions(WeightsFile weights, ModelCard card, const Path& path) {
  const torch::InferenceMode guard;
  check_card(card, path);
  const auto classes = static_cast<std::int64_t>(card.classes.size());
  const std::uint32_t tile_px = card.tile_px;
  Builder builder(std::move(weights), std::move(card), path);
  builder.no_head(build_alexnet_convolutions(builder, tile_px), kAlexNetMap, classes);
  return builder.finish();
}

}  // namespace quadrat::score
