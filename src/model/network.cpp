#include "quadrat/model/network.h"

#include <algorithm>

#include "convolution.h"
#include "on_gpu.h"
#include "quadrat/base/error.h"
#include "quadrat/base/random.h"
#include "quadrat/model/input_blocks.h"

namespace quadrat {

namespace nn = torch::nn;

namespace {

nn::Conv2d convolution(std::int64_t in, std::int64_t out, std::int64_t kernel, std::int64_t stride,
                       std::int64_t padding, bool bias) {
  return nn::Conv2d(nn::Conv2dOptions(in, out, kernel).stride(stride).padding(padding).bias(bias));
}

/// In place: a convolution does not need its output again for its gradient.
torch::Tensor rectified(torch::Tensor values) { return values.relu_(); }

std::uint32_t first_of(const torch::ExpandingArray<2>& pair) {
  return static_cast<std::uint32_t>(pair->front());
}

InputBlocks blocks_for(const nn::Conv2d& first, std::uint32_t side_px) {
  const auto& options = first->options;
  return InputBlocks::for_convolution(
      side_px, first_of(options.kernel_size()), first_of(options.stride()),
      first_of(std::get<torch::ExpandingArray<2>>(options.padding())));
}

/// The convolution without its bias, of a map or, if it is the first one, of tiles in blocks.
torch::Tensor convolved(const nn::Conv2d& convolution, const torch::Tensor& input) {
  const auto& weight = convolution->weight;
  const auto& options = convolution->options;
  if (input.size(1) == weight.size(1)) {
    return convolution_of(input, weight, {}, first_of(options.stride()),
                          first_of(std::get<torch::ExpandingArray<2>>(options.padding())));
  }
  // Blocks do not depend on the tile's size but for their number.
  return at::conv2d(input, blocked_weight(weight, blocks_for(convolution, 224)));
}

/// max(0, convolution + bias), and where `is_pooled` its maximum over 3x3 windows, stride 2.
torch::Tensor convolved_relu(nn::Conv2d& convolution, const torch::Tensor& input, bool is_pooled) {
  if (!input.is_cuda() && input.size(1) == convolution->weight.size(1)) {
    const auto& options = convolution->options;
    const auto values = rectified(
        convolution_of(input, convolution->weight, convolution->bias, first_of(options.stride()),
                       first_of(std::get<torch::ExpandingArray<2>>(options.padding()))));
    return is_pooled ? torch::max_pool2d(values, 3, 2) : values;
  }
  const auto values = convolved(convolution, input);
  if (values.is_cuda() && has_gpu_kernels(values))
    return rectified_on_gpu(values, convolution->bias, is_pooled);
  const auto rest = rectified(values + convolution->bias.view({1, -1, 1, 1}));
  return is_pooled ? torch::max_pool2d(rest, 3, 2) : rest;
}

/// A module that only groups others under a name.
struct Group : nn::Module {};

/// Krizhevsky, "One weird trick for parallelizing convolutional neural networks", 2014, as
/// torchvision has it.
class AlexNet : public Network {
 public:
  explicit AlexNet(std::int64_t classes) : Network(Architecture::kAlexNet) {
    features_ = register_module("features", std::make_shared<Group>());
    classifier_ = register_module("classifier", std::make_shared<Group>());
    conv1_ = features_->register_module("0", convolution(3, 64, 11, 4, 2, true));
    conv2_ = features_->register_module("3", convolution(64, 192, 5, 1, 2, true));
    conv3_ = features_->register_module("6", convolution(192, 384, 3, 1, 1, true));
    conv4_ = features_->register_module("8", convolution(384, 256, 3, 1, 1, true));
    conv5_ = features_->register_module("10", convolution(256, 256, 3, 1, 1, true));
    fc6_ = classifier_->register_module("1", SplitLinear(256 * 6 * 6, 4096));
    fc7_ = classifier_->register_module("4", SplitLinear(4096, 4096));
    fc8_ = classifier_->register_module("6", nn::Linear(4096, classes));
  }

  nn::Linear last_layer() const override { return fc8_; }
  std::string last_layer_name() const override { return "classifier.6"; }
  InputBlocks input_blocks(std::uint32_t side_px) const override {
    return blocks_for(conv1_, side_px);
  }

 protected:
  torch::Tensor body(const torch::Tensor& input) override {
    auto x = convolved_relu(conv1_, input, true);
    x = convolved_relu(conv2_, x, true);
    x = convolved_relu(conv3_, x, false);
    x = convolved_relu(conv4_, x, false);
    x = convolved_relu(conv5_, x, true);
    // At 224 px this is what comes out already.
    if (x.size(2) != 6 || x.size(3) != 6) x = torch::adaptive_avg_pool2d(x, {6, 6});
    return x.flatten(1);
  }

  torch::Tensor middle(const torch::Tensor& features) override {
    const auto x = rectified(fc6_(dropout(features, 0)));
    return rectified(fc7_(dropout(x, 1)));
  }

  std::vector<nn::Module*> trained_modules() override {
    switch (retraining()) {
      case Retraining::kLastOnly:
        return {fc8_.get()};
      case Retraining::kFullyConnected:
        return {classifier_.get()};
      case Retraining::kAll:
        break;
    }
    return {this};
  }

 private:
  std::shared_ptr<Group> features_, classifier_;
  nn::Conv2d conv1_{nullptr}, conv2_{nullptr}, conv3_{nullptr}, conv4_{nullptr}, conv5_{nullptr};
  SplitLinear fc6_{nullptr}, fc7_{nullptr};
  nn::Linear fc8_{nullptr};
};

/// He, Zhang, Ren and Sun, "Deep residual learning for image recognition", 2015: two 3x3
/// convolutions and a shortcut.
class BasicBlock : public nn::Module {
 public:
  BasicBlock(std::int64_t in, std::int64_t out, std::int64_t stride) {
    conv1_ = register_module("conv1", convolution(in, out, 3, stride, 1, false));
    bn1_ = register_module("bn1", BatchNorm(out));
    conv2_ = register_module("conv2", convolution(out, out, 3, 1, 1, false));
    bn2_ = register_module("bn2", BatchNorm(out));
    if (stride != 1 || in != out) {
      auto downsample = register_module("downsample", std::make_shared<Group>());
      shortcut_conv_ = downsample->register_module("0", convolution(in, out, 1, stride, 0, false));
      shortcut_bn_ = downsample->register_module("1", BatchNorm(out));
    }
  }

  /// A map twice, once for each of its readers.
  using Twice = std::pair<torch::Tensor, torch::Tensor>;

  Twice forward(const Twice& input) {
    const auto [main, other] = input;
    const auto shortcut = shortcut_conv_.is_empty() ? other : shortcut_bn_(shortcut_conv_(other));
    const auto middle = bn1_->forward_relu(convolved(conv1_, main));
    return bn2_->forward_relu_twice(convolved(conv2_, middle), shortcut);
  }

 private:
  nn::Conv2d conv1_{nullptr}, conv2_{nullptr}, shortcut_conv_{nullptr};
  BatchNorm bn1_{nullptr}, bn2_{nullptr}, shortcut_bn_{nullptr};
};

class ResNet18 : public Network {
 public:
  explicit ResNet18(std::int64_t classes) : Network(Architecture::kResNet18) {
    conv1_ = register_module("conv1", convolution(3, 64, 7, 2, 3, false));
    bn1_ = register_module("bn1", BatchNorm(64));
    std::int64_t channels = 64;
    for (int stage = 1; stage <= 4; ++stage) {
      auto group = register_module("layer" + std::to_string(stage), std::make_shared<Group>());
      const std::int64_t out = std::int64_t{64} << (stage - 1);
      for (int block = 0; block < 2; ++block) {
        const std::int64_t stride = stage > 1 && block == 0 ? 2 : 1;
        blocks_.push_back(group->register_module(
            std::to_string(block), std::make_shared<BasicBlock>(channels, out, stride)));
        channels = out;
      }
    }
    fc_ = register_module("fc", nn::Linear(512, classes));
    for (const auto& module : modules(false)) {
      if (auto* conv = module->as<nn::Conv2d>())
        nn::init::kaiming_normal_(conv->weight, 0, torch::kFanOut, torch::kReLU);
    }
  }

  nn::Linear last_layer() const override { return fc_; }
  std::string last_layer_name() const override { return "fc"; }
  InputBlocks input_blocks(std::uint32_t side_px) const override {
    return blocks_for(conv1_, side_px);
  }

 protected:
  torch::Tensor body(const torch::Tensor& input) override {
    const auto stem = bn1_->forward_relu_pool(convolved(conv1_, input));
    BasicBlock::Twice x{stem, stem};
    for (const auto& block : blocks_) x = block->forward(x);
    return torch::adaptive_avg_pool2d(x.first, {1, 1}).flatten(1);
  }

  torch::Tensor middle(const torch::Tensor& features) override { return features; }

  std::vector<nn::Module*> trained_modules() override {
    if (retraining() == Retraining::kLastOnly) return {fc_.get()};
    return {this};
  }

 private:
  nn::Conv2d conv1_{nullptr};
  BatchNorm bn1_{nullptr};
  std::vector<std::shared_ptr<BasicBlock>> blocks_;
  nn::Linear fc_{nullptr};
};

}  // namespace

std::shared_ptr<Network> Network::create(Architecture architecture, std::int64_t classes,
                                         std::uint64_t seed) {
  torch::manual_seed(seed);
  std::shared_ptr<Network> network;
  if (architecture == Architecture::kAlexNet) {
    network = std::make_shared<AlexNet>(classes);
  } else {
    network = std::make_shared<ResNet18>(classes);
  }
  return network;
}

void Network::set_retraining(Retraining retraining) {
  if (retraining == Retraining::kFullyConnected && architecture_ == Architecture::kResNet18) {
    throw UsageError(
        "--retraining_type fully_connected does not go with resnet18, which has one fully "
        "connected layer; use "
        "last_only or all");
  }
  retraining_ = retraining;
  for (auto& parameter : parameters()) parameter.set_requires_grad(false);
  for (nn::Module* module : trained_modules()) {
    for (auto& parameter : module->parameters()) parameter.set_requires_grad(true);
  }
}

void Network::set_batch_norm(BatchNormMode mode, const SumOverRanks& sum) {
  for (const auto& module : modules()) {
    auto* norm = module->as<BatchNormImpl>();
    if (norm == nullptr) continue;
    norm->set_mode(mode, sum);
  }
}

void Network::split_layers(const LayerRanks& ranks, torch::ScalarType dtype) {
  for (const auto& module : modules()) {
    auto* layer = module->as<SplitLinearImpl>();
    if (layer != nullptr && layer->weight.requires_grad()) layer->split(ranks, dtype);
  }
}

void Network::parameters_changed() {
  for (const auto& module : modules()) {
    if (auto* layer = module->as<SplitLinearImpl>()) layer->update_copies();
  }
}

void Network::train_mode() {
  eval();
  for (nn::Module* module : trained_modules()) module->train();
  // Dropout belongs to the linear layers: on while any of them but the last is trained.
  if (retraining_ == Retraining::kFullyConnected) train(true);
}

torch::Tensor Network::frozen_part(const torch::Tensor& input) {
  if (retraining_ == Retraining::kAll) return input;
  const torch::NoGradGuard no_gradients;
  const auto features = body(input);
  return retraining_ == Retraining::kLastOnly ? middle(features) : features;
}

torch::Tensor Network::trained_part(const torch::Tensor& features) {
  switch (retraining_) {
    case Retraining::kLastOnly:
      return last_layer()->forward(features);
    case Retraining::kFullyConnected:
      return last_layer()->forward(middle(features));
    case Retraining::kAll:
      break;
  }
  return last_layer()->forward(middle(body(features)));
}

std::vector<torch::Tensor> Network::trained_parameters() const {
  const auto split = split_parameters();
  std::vector<torch::Tensor> trained;
  for (const auto& parameter : parameters()) {
    if (!parameter.requires_grad()) continue;
    const auto part = std::find_if(split.begin(), split.end(), [&](const SplitParameter& one) {
      return one.whole.is_same(parameter);
    });
    trained.push_back(part == split.end() ? parameter : part->own);
  }
  return trained;
}

std::vector<SplitParameter> Network::split_parameters() const {
  std::vector<SplitParameter> split;
  for (const auto& module : modules()) {
    const auto* layer = module->as<SplitLinearImpl>();
    if (layer != nullptr) split.insert(split.end(), layer->parts().begin(), layer->parts().end());
  }
  return split;
}

torch::Tensor Network::dropout(const torch::Tensor& values, std::uint64_t layer) const {
  if (!is_training()) return values;
  const auto rows = values.size(0);
  const auto columns = values.size(1);
  TORCH_CHECK(dropout_keys_.defined() && dropout_keys_.size(0) == rows,
              "a dropout key for each row");
  if (values.is_cuda()) return dropped_on_gpu(values, dropout_keys_, layer);
  auto mask = torch::empty({rows, columns}, torch::kFloat);
  float* out = mask.data_ptr<float>();
  const auto* keys = dropout_keys_.const_data_ptr<std::int64_t>();
  for (std::int64_t row = 0; row < rows; ++row) {
    KeyedRandom random(kStreamDropout, static_cast<std::uint64_t>(keys[row]), layer);
    for (std::int64_t i = 0; i < columns; i += 64) {
      std::uint64_t bits = random.next();
      const std::int64_t end = std::min<std::int64_t>(columns, i + 64);
      for (std::int64_t j = i; j < end; ++j, bits >>= 1)
        *out++ = static_cast<float>(bits & 1U) * 2.0F;
    }
  }
  return values * mask.to(values.options());
}

}  // namespace quadrat
