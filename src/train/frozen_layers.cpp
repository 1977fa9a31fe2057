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
  if (session.device.is_cuda()) return;
  const bool convolutions_only = session.card.retraining == Retraining::kFullyConnected;
  if (!convolutions_only) batch_ = score::Plan::suitable_batch(session.card.architecture);
  const auto fuse = convolutions_only ? score::fuse_alexnet_convolutions : score::fuse_network;
  const bool bf16 = session.bf16 && score::is_supported(score::Precision::kBf16);
  plan_.emplace(fuse(to_weights_file(*session.network, session.card), session.card,
                     session.options.pretrained_weights),
                bf16 ? score::Precision::kBf16 : score::Precision::kFp32, batch_);
}

std::int64_t FrozenLayers::width(const ModelCard& card) {
  if (card.retraining == Retraining::kFullyConnected) return kMapPositions * kMapChannels;
  return score::feature_count(card.architecture);
}

torch::Tensor FrozenLayers::features(const torch::Tensor& tiles) {
  if (!plan_) {
    const Autocast autocast(session_);
    return session_.network->frozen_part(tiles.to(session_.device));
  }
  auto all = torch::empty({tiles.size(0), width(session_.card)}, torch::kFloat);
  for (std::int64_t first = 0; first < tiles.size(0); first += batch_) {
    const std::int64_t here = std::min(batch_, tiles.size(0) - first);
    auto features = plan_->infer(tiles.narrow(0, first, here)).features;
    if (session_.card.retraining == Retraining::kFullyConnected) {
      features =
          features.view({here, kMapPositions, kMapChannels}).transpose(1, 2).reshape({here, -1});
    }
    all.narrow(0, first, here).copy_(features);
  }
  return all;
}

}  // namespace quadrat
