#pragma once

#include <torch/torch.h>

#include <cstdint>
#include <optional>

#include "quadrat/score/device_network.h"
#include "quadrat/score/plan.h"
#include "session.h"

namespace quadrat {

/// The layers that are not trained, compiled by scoring: for this CPU fused, prepacked, and a
/// tile's features a function of the tile alone, whatever its company; for a GPU with batch norm
/// folded.
class FrozenLayers {
 public:
  /// Rows that a GPU computes at once where no gradients are wanted: enough to keep it busy.
  static constexpr std::int64_t kRowsOnDevice = 256;

  explicit FrozenLayers(const Session& session);

  /// Values a tile: 512, 4096 or 9216.
  static std::int64_t width(const ModelCard& card);

  /// @param tiles [n, 3, S, S], channels last, float32 on a CPU, in blocks on a GPU @return [n,
  /// width] on the session's device
  torch::Tensor features(const torch::Tensor& tiles);

  /// Tiles that are best computed at once.
  std::int64_t batch() const { return batch_; }

 private:
  const Session& session_;
  std::int64_t batch_;
  std::optional<score::Plan> plan_;              ///< on a CPU
  std::optional<score::DeviceNetwork> network_;  ///< on a GPU
};

}  // namespace quadrat
