#include "frozen_layers.h"

#include <algorithm>

#include "quadrat/score/network.h"

namespace quadrat {

namespace {

/// AlexNet's last map, which torch flattens as [channels, positions] and the plan as [positions,
/// channels].
constexpr std::int64_t kMapPositions = 6 * 6;
constexpr std::int64_t kMapChannels = 256;

/// Keeps the layers up to the flattening; a head of zeros takes the place of the others.
void cut_after_convolutions(score::FusedNetwork& network) {
  using Kind = score::Layer::Kind;
  auto& layers = network.layers;
  const auto flatten = std::find_if(layers.begin(), layers.end(),
                                    [](const auto& layer) { return layer.kind == Kind::kFlatten; });
  score::Layer head = layers.back();
  head.input = flatten->output;
  head.weight = torch::zeros({head.weight.size(0), kMapPositions * kMapChannels});
  head.bias = torch::zeros_like(head.bias);
  layers.erase(flatten + 1, layers.end());
  layers.push_back(std::move(head));
}

}  // namespace

FrozenLayers::FrozenLayers(const Session& session)
    : session_(session), batch_(score::Plan::kTilesAtOnce) {
  if (session.device.is_cuda()) {
    batch_ = kRowsOnDevice;
    // They are evaluated, also before the first epoch has said so.
    session.network->eval();
    return;
  }
  auto network = score::fuse_network(to_weights_file(*session.network, session.card), session.card,
                                     session.options.pretrained_weights);
  if (session.card.retraining == Retraining::kFullyConnected) {
    cut_after_convolutions(network);
  } else {
    batch_ = score::Plan::suitable_batch(session.card.architecture);
  }
  const bool bf16 = session.bf16 && score::is_supported(score::Precision::kBf16);
  plan_.emplace(std::move(network), bf16 ? score::Precision::kBf16 : score::Precision::kFp32,
                batch_);
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
