#include "quadrat/score/device_network.h"

#include <utility>
#include <vector>

#include "normalise_on_gpu.h"
#include "quadrat/model/input_blocks.h"

namespace quadrat::score {

namespace {

constexpr auto kChannelsLast = at::MemoryFormat::ChannelsLast;

/// Convolution, bias, addition and ReLU in one pass.
torch::Tensor fused_by_cudnn(const Layer& layer, const torch::Tensor& in,
                             const std::vector<torch::Tensor>& slots) {
  const std::vector<std::int64_t> stride(2, layer.stride), padding(2, layer.padding);
  const std::vector<std::int64_t> dilation(2, 1);
  if (layer.addend < 0) {
    return at::cudnn_convolution_relu(in, layer.weight, layer.bias, stride, padding, dilation, 1);
  }
  return at::cudnn_convolution_add_relu(in, layer.weight,
                                        slots[static_cast<std::size_t>(layer.addend)], 1.0,
                                        layer.bias, stride, padding, dilation, 1);
}

torch::Tensor run_layer(const Layer& layer, const std::vector<torch::Tensor>& slots) {
  const torch::Tensor& in = slots[static_cast<std::size_t>(layer.input)];
  torch::Tensor out;
  switch (layer.kind) {
    case Layer::Kind::kConvolution:
      if (in.is_cuda() && layer.relu) return fused_by_cudnn(layer, in, slots);
      out = at::conv2d(in, layer.weight, layer.bias, layer.stride, layer.padding);
      if (layer.addend >= 0) out.add_(slots[static_cast<std::size_t>(layer.addend)]);
      break;
    case Layer::Kind::kMaxPool:
      return at::max_pool2d(in, layer.kernel, layer.stride, layer.padding);
    case Layer::Kind::kAveragePool:
      // The sum over a map has more digits than bf16.
      out = at::adaptive_avg_pool2d(in.to(torch::kFloat), {layer.side, layer.side});
      return layer.side == 1 ? out : out.to(in.scalar_type());
    case Layer::Kind::kFlatten:
      return in.permute({0, 2, 3, 1}).reshape({in.size(0), -1});
    case Layer::Kind::kLinear:
      out = at::linear(in.to(layer.weight.scalar_type()), layer.weight, layer.bias);
      break;
    case Layer::Kind::kForest:
      return in;
  }
  return layer.relu ? out.relu_() : out;
}

InputBlocks blocks_of(const FusedNetwork& network) {
  const Layer& first = network.layers.front();
  return InputBlocks::for_convolution(
      network.card.tile_px, static_cast<std::uint32_t>(first.kernel),
      static_cast<std::uint32_t>(first.stride), static_cast<std::uint32_t>(first.padding));
}

}  // namespace

DeviceNetwork::DeviceNetwork(FusedNetwork network, torch::Device device, torch::ScalarType dtype)
    : network_(std::move(network)),
      device_(device),
      dtype_(dtype),
      blocks_(blocks_of(network_)),
      transform_(network_.card.tile_px, network_.card.mean, network_.card.std, Augment::kNone, 0) {
  const torch::InferenceMode guard;
  Layer& first = network_.layers.front();
  first.weight = blocked_weight(first.weight, blocks_);
  first.stride = 1;
  first.padding = 0;
  for (Layer& layer : network_.layers) {
    if (!layer.weight.defined()) continue;
    const bool is_head = &layer == &network_.layers.back();
    const auto options = torch::TensorOptions(is_head ? torch::kFloat : dtype).device(device);
    layer.weight = layer.weight.to(options);
    if (layer.weight.dim() == 4) layer.weight = layer.weight.contiguous(kChannelsLast);
    layer.bias = layer.bias.to(options);
  }
}

Plan::Result DeviceNetwork::infer(std::span<const std::uint8_t> tiles) const {
  const torch::InferenceMode guard;
  const std::int64_t side = network_.card.tile_px;
  const std::int64_t count = static_cast<std::int64_t>(tiles.size()) / (3 * side * side);
  const auto of_host = torch::from_blob(const_cast<std::uint8_t*>(tiles.data()),
                                        {count, side, side, 3}, torch::kByte);
  const auto bytes = of_host.to(device_, /*non_blocking=*/true);
  if (device_.is_cuda()) return infer(normalise_on_gpu(bytes, transform_, blocks_, dtype_));
  const auto values =
      (bytes.to(torch::kFloat) / 255 - torch::tensor(at::ArrayRef(transform_.mean()))) /
      torch::tensor(at::ArrayRef(transform_.std()));
  return infer(values.permute({0, 3, 1, 2}));
}

Plan::Result DeviceNetwork::infer(const torch::Tensor& tiles) const {
  const torch::InferenceMode guard;
  std::vector<torch::Tensor> slots(static_cast<std::size_t>(network_.slots));
  const auto values = tiles.to(torch::TensorOptions(dtype_).device(device_));
  slots[0] = (values.size(1) == 3 ? to_blocks(values, blocks_) : values).contiguous(kChannelsLast);
  const std::span layers(network_.layers);
  for (const Layer& layer : layers.first(layers.size() - 1))
    slots[static_cast<std::size_t>(layer.output)] = run_layer(layer, slots);
  const Layer& head = layers.back();
  const auto features = slots[static_cast<std::size_t>(head.input)].to(torch::kFloat).contiguous();
  if (!network_.forest) return {features, at::linear(features, head.weight, head.bias)};
  const auto of_host = features.cpu();
  auto logits =
      torch::empty({features.size(0), static_cast<std::int64_t>(network_.card.classes.size())});
  network_.forest->log_probabilities(of_host.const_data_ptr<float>(), of_host.size(0),
                                     logits.mutable_data_ptr<float>());
  return {features, logits};
}

}  // namespace quadrat::score
