#include "frozen_layers.h"

#include <algorithm>

#include "quadrat/score/network.h"

namespace quadrat {

namespace {

/// AlexNet's last map, which torch flattens as [channels, positions] and the plan as [positions,
/// channels].
constexpr std::int64_t kMapPositions = 6 * 6;
constexpr std::int64_t kMapChannels = 256;

}  // namespace

FrozenLayers::FrozenLayers(const Session& session)
    : session_(session), batch_(score::Plan::kTilesAtOnce) {
  const bool convolutions_only = session.card.retraining == Retraining::kFullyConnected;
  if (!convolutions_only) batch_ = score::Plan::suitable_batch(session.card.architecture);
  const auto fuse = convolutions_only ? score::fuse_alexnet_convolutions : score::fuse_network;
  auto network =
      fuse(to_weights_file(*session.network, session.card, convolutions_only ? "features." : ""),
           session.card, session.options.pretrained_weights);
  if (session.device.is_cuda()) {
    batch_ = kRowsOnDevice;
    network_.emplace(std::move(network), session.device,
                     session.bf16 ? torch::kBFloat16 : torch::kFloat);
    return;
  }
  const bool bf16 = session.bf16 && session.cpu.has_bf16;
  plan_.emplace(std::move(network), bf16 ? score::Precision::kBf16 : score::Precision::kFp32,
                batch_, nullptr, torch::kCPU, session.cpu.has_amx);
}

std::int64_t FrozenLayers::width(const ModelCard& card) {
  if (card.retraining == Retraining::kFullyConnected) return kMapPositions * kMapChannels;
  return score::feature_count(card.architecture);
}

torch::Tensor FrozenLayers::features(const torch::Tensor& tiles) {
  // The plan's order of AlexNet's map is not torch's.
  const auto in_torchs_order = [&](const torch::Tensor& features) {
    if (session_.card.retraining != Retraining::kFullyConnected) return features;
    const std::int64_t rows = features.size(0);
    return features.view({rows, kMapPositions, kMapChannels}).transpose(1, 2).reshape({rows, -1});
  };
  if (network_) {
    const torch::NoGradGuard no_gradients;
    // Made in inference mode, it could not be used in a backward pass.
    return in_torchs_order(network_->infer(tiles).features).clone();
  }
  auto all = torch::empty({tiles.size(0), width(session_.card)}, torch::kFloat);
  for (std::int64_t first = 0; first < tiles.size(0); first += batch_) {
    const std::int64_t here = std::min(batch_, tiles.size(0) - first);
    all.narrow(0, first, here)
        .copy_(in_torchs_order(plan_->infer(tiles.narrow(0, first, here)).features));
  }
  return all;
}

}  // namespace quadrat
