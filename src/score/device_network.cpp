#include "quadrat/score/device_network.h"

#include <cstring>
#include <utility>
#include <vector>

namespace quadrat::score {

namespace {

constexpr auto kChannelsLast = at::MemoryFormat::ChannelsLast;

torch::Tensor run_layer(const Layer& layer, const std::vector<torch::Tensor>& slots) {
  const torch::Tensor& in = slots[static_cast<std::size_t>(layer.input)];
  torch::Tensor out;
  switch (layer.kind) {
    case Layer::Kind::kConvolution:
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

}  // namespace

DeviceNetwork::DeviceNetwork(FusedNetwork network, torch::Device device, torch::ScalarType dtype)
    : network_(std::move(network)),
      device_(device),
      dtype_(dtype),
      mean_(torch::tensor(at::ArrayRef(network_.card.mean)).to(torch::kFloat).to(device)),
      std_(torch::tensor(at::ArrayRef(network_.card.std)).to(torch::kFloat).to(device)) {
  const torch::InferenceMode guard;
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
  // Pinned: the copy takes no detour.
  auto bytes = torch::empty({count, side, side, 3},
                            torch::TensorOptions(torch::kByte).pinned_memory(device_.is_cuda()));
  std::memcpy(bytes.mutable_data_ptr(), tiles.data(), tiles.size());
  auto values = bytes.to(device_, /*non_blocking=*/true).to(torch::kFloat);
  values.div_(255).sub_(mean_).div_(std_);
  return infer(values.permute({0, 3, 1, 2}));
}

Plan::Result DeviceNetwork::infer(const torch::Tensor& tiles) const {
  const torch::InferenceMode guard;
  std::vector<torch::Tensor> slots(static_cast<std::size_t>(network_.slots));
  slots[0] = tiles.to(torch::TensorOptions(dtype_).device(device_)).contiguous(kChannelsLast);
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
