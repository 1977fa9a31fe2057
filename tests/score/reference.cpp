#include "reference.h"

#include <fmt/format.h>

#include <cmath>
#include <cstring>
#include <map>

#include "quadrat/base/random.h"

namespace quadrat::score::testing {

namespace {

class Maker {
 public:
  explicit Maker(std::uint64_t seed)
      : generator_(torch::make_generator<at::CPUGeneratorImpl>(seed)) {}

  void add(const std::string& name, const torch::Tensor& value) {
    StoredTensor stored;
    stored.name = name;
    stored.shape = value.sizes().vec();
    const auto contiguous = value.contiguous();
    stored.data.resize(static_cast<std::size_t>(contiguous.numel()) * sizeof(float));
    std::memcpy(stored.data.data(), contiguous.const_data_ptr<float>(), stored.data.size());
    file_.tensors.push_back(std::move(stored));
  }

  torch::Tensor normal(std::vector<std::int64_t> shape, double std) {
    return at::randn(shape, generator_) * std;
  }
  torch::Tensor uniform(std::vector<std::int64_t> shape, double low, double high) {
    return at::rand(shape, generator_) * (high - low) + low;
  }

  void convolution(const std::string& name, std::int64_t out, std::int64_t in, std::int64_t kernel,
                   bool bias) {
    add(name + ".weight", normal({out, in, kernel, kernel},
                                 std::sqrt(2.0 / static_cast<double>(in * kernel * kernel))));
    if (bias) add(name + ".bias", normal({out}, 0.1));
  }

  void norm(const std::string& name, std::int64_t channels, double gain) {
    add(name + ".weight", uniform({channels}, 0.5 * gain, 1.5 * gain));
    add(name + ".bias", normal({channels}, 0.2));
    add(name + ".running_mean", normal({channels}, 0.3));
    add(name + ".running_var", uniform({channels}, 0.5, 2.0));
  }

  void linear(const std::string& name, std::int64_t out, std::int64_t in) {
    add(name + ".weight", normal({out, in}, std::sqrt(2.0 / static_cast<double>(in))));
    add(name + ".bias", normal({out}, 0.1));
  }

  WeightsFile file_;

 private:
  at::Generator generator_;
};

std::map<std::string, torch::Tensor> as_tensors(const WeightsFile& weights) {
  std::map<std::string, torch::Tensor> result;
  for (const StoredTensor& tensor : weights.tensors) {
    result[tensor.name] =
        torch::from_blob(const_cast<std::byte*>(tensor.data.data()), tensor.shape, torch::kFloat32)
            .to(torch::kFloat64);
  }
  return result;
}

}  // namespace

WeightsFile random_weights(Architecture architecture, std::int64_t classes, std::uint64_t seed) {
  Maker make(seed);
  if (architecture == Architecture::kAlexNet) {
    make.convolution("features.0", 64, 3, 11, true);
    make.convolution("features.3", 192, 64, 5, true);
    make.convolution("features.6", 384, 192, 3, true);
    make.convolution("features.8", 256, 384, 3, true);
    make.convolution("features.10", 256, 256, 3, true);
    make.linear("classifier.1", 4096, 9216);
    make.linear("classifier.4", 4096, 4096);
    make.linear("classifier.6", classes, 4096);
  } else {
    make.convolution("conv1", 64, 3, 7, false);
    make.norm("bn1", 64, 1);
    std::int64_t width = 64;
    for (int stage = 1; stage <= 4; ++stage) {
      const std::int64_t out = std::int64_t{32} << stage;
      for (int block = 0; block < 2; ++block) {
        const std::string name = fmt::format("layer{}.{}.", stage, block);
        make.convolution(name + "conv1", out, width, 3, false);
        make.norm(name + "bn1", out, 1);
        make.convolution(name + "conv2", out, out, 3, false);
        make.norm(name + "bn2", out, 0.5);
        if (stage > 1 && block == 0) {
          make.convolution(name + "downsample.0", out, width, 1, false);
          make.norm(name + "downsample.1", out, 0.7);
        }
        width = out;
      }
    }
    make.linear("fc", classes, 512);
  }
  std::string names;
  for (std::int64_t c = 0; c < classes; ++c)
    names += fmt::format("{}\"Class{}\"", c == 0 ? "" : ", ", c);
  make.file_.metadata = {
      {"architecture", architecture == Architecture::kAlexNet ? "alexnet" : "resnet18"},
      {"classes", "[" + names + "]"},
      {"mean", "[0.485, 0.456, 0.406]"},
      {"std", "[0.229, 0.224, 0.225]"},
      {"tile_px", "224"},
      {"retraining_type", "all"}};
  return std::move(make.file_);
}

ReferenceResult reference_forward(const WeightsFile& weights, const ModelCard& card,
                                  const std::vector<std::uint8_t>& tiles) {
  const torch::InferenceMode guard;
  const auto w = as_tensors(weights);
  const std::int64_t side = card.tile_px;
  const std::int64_t count = static_cast<std::int64_t>(tiles.size()) / (3 * side * side);
  const auto bytes = torch::from_blob(const_cast<std::uint8_t*>(tiles.data()),
                                      {count, side, side, 3}, torch::kUInt8);
  const auto mean =
      torch::tensor({card.mean[0], card.mean[1], card.mean[2]}, torch::kFloat64).view({1, 3, 1, 1});
  const auto std =
      torch::tensor({card.std[0], card.std[1], card.std[2]}, torch::kFloat64).view({1, 3, 1, 1});
  auto x = (bytes.permute({0, 3, 1, 2}).contiguous().to(torch::kFloat64) / 255.0 - mean) / std;

  const auto conv = [&](const torch::Tensor& in, const std::string& name, std::int64_t stride,
                        std::int64_t padding) {
    const auto bias = w.find(name + ".bias");
    return torch::conv2d(in, w.at(name + ".weight"),
                         bias == w.end() ? torch::Tensor() : bias->second, stride, padding);
  };
  const auto norm = [&](const torch::Tensor& in, const std::string& name) {
    return torch::batch_norm(in, w.at(name + ".weight"), w.at(name + ".bias"),
                             w.at(name + ".running_mean"), w.at(name + ".running_var"), false, 0.1,
                             1e-5, false);
  };
  const auto linear = [&](const torch::Tensor& in, const std::string& name) {
    return torch::linear(in, w.at(name + ".weight"), w.at(name + ".bias"));
  };

  ReferenceResult result;
  if (card.architecture == Architecture::kAlexNet) {
    x = torch::max_pool2d(torch::relu(conv(x, "features.0", 4, 2)), 3, 2);
    x = torch::max_pool2d(torch::relu(conv(x, "features.3", 1, 2)), 3, 2);
    x = torch::relu(conv(x, "features.6", 1, 1));
    x = torch::relu(conv(x, "features.8", 1, 1));
    x = torch::max_pool2d(torch::relu(conv(x, "features.10", 1, 1)), 3, 2);
    x = torch::adaptive_avg_pool2d(x, {6, 6}).flatten(1);
    x = torch::relu(linear(x, "classifier.1"));
    result.features = torch::relu(linear(x, "classifier.4"));
    result.logits = linear(result.features, "classifier.6");
    return result;
  }
  x = torch::max_pool2d(torch::relu(norm(conv(x, "conv1", 2, 3), "bn1")), 3, 2, 1);
  for (int stage = 1; stage <= 4; ++stage) {
    for (int block = 0; block < 2; ++block) {
      const std::string name = fmt::format("layer{}.{}.", stage, block);
      const bool halves = stage > 1 && block == 0;
      auto y = torch::relu(norm(conv(x, name + "conv1", halves ? 2 : 1, 1), name + "bn1"));
      y = norm(conv(y, name + "conv2", 1, 1), name + "bn2");
      if (halves) x = norm(conv(x, name + "downsample.0", 2, 0), name + "downsample.1");
      x = torch::relu(x + y);
    }
  }
  result.features = torch::adaptive_avg_pool2d(x, {1, 1}).flatten(1);
  result.logits = linear(result.features, "fc");
  return result;
}

std::vector<std::uint8_t> random_tiles(std::int64_t count, std::int64_t side_px,
                                       std::uint64_t seed) {
  std::vector<std::uint8_t> tiles(static_cast<std::size_t>(count * side_px * side_px * 3));
  std::size_t at = 0;
  for (std::int64_t n = 0; n < count; ++n) {
    KeyedRandom random({seed, static_cast<std::uint64_t>(n)});
    double wave[3][4];
    for (auto& channel : wave) {
      channel[0] = random.uniform(0.01, 0.2);
      channel[1] = random.uniform(0.01, 0.2);
      channel[2] = random.uniform(40, 200);
      channel[3] = random.uniform(10, 60);
    }
    for (std::int64_t y = 0; y < side_px; ++y) {
      for (std::int64_t x = 0; x < side_px; ++x) {
        for (const auto& channel : wave) {
          const double value = channel[2] +
                               channel[3] * std::sin(channel[0] * static_cast<double>(x)) *
                                   std::cos(channel[1] * static_cast<double>(y)) +
                               random.uniform(-15, 15);
          tiles[at++] = static_cast<std::uint8_t>(std::clamp(value, 0.0, 255.0));
        }
      }
    }
  }
  return tiles;
}

}  // namespace quadrat::score::testing
