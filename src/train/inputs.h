#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string_view>
#include <vector>

#include "device_tiles.h"
#include "frozen_layers.h"
#include "quadrat/tiles/tile_store.h"
#include "quadrat/train/batches.h"
#include "quadrat/train/features.h"
#include "session.h"

namespace quadrat {

/// What the trained layers are given: pixels where all of the network is trained, else the features
/// that the frozen layers make of them. Features are computed once where they fit into memory (of
/// the GPU, where there is one) and else each time anew: the same numbers either way.
class Inputs {
 public:
  enum class Use { kTraining, kValidation };

  /// @param tiles of `catalog`, which must outlive this; ascending
  /// @param frozen the layers below the trained ones; null where all are trained
  /// @param memory_bytes of the host's that may be used; on a GPU, what that has free counts beside
  /// it
  /// @throws IoError, InputError naming a tile that cannot be used
  /// Ends early, and is of no use, where a signal asks to stop meanwhile.
  Inputs(const Session& session, const Catalog& catalog, std::vector<std::uint32_t> tiles, Use use,
         std::shared_ptr<FrozenLayers> frozen, std::uint64_t memory_bytes);

  /// Bytes of all features of so many tiles, 0 where nothing is frozen.
  static std::uint64_t feature_bytes(const Session& session, std::size_t tiles, Use use);

  /// Which tiles are in a step.
  using TilesOfStep = std::function<std::vector<std::uint32_t>(std::int64_t step)>;

  /// @param epoch chooses the augmentation: every one another for pixels, one of the views for
  /// features
  std::unique_ptr<InputStream> stream(std::uint64_t epoch, TilesOfStep tiles, Steps steps);

 private:
  void compute_all(std::string_view what);
  void open_tiles(const Catalog& catalog, std::uint64_t memory_bytes, std::size_t kept);
  std::unique_ptr<InputStream> pixels(SamplesOfStep samples, Steps steps);

  const Session& session_;
  std::vector<std::uint32_t> tiles_;
  bool augmented_;
  std::uint64_t views_ = 0;                    ///< 0: pixels, augmented anew each epoch
  std::unique_ptr<TileDevice> device_;         ///< null where the network is on the CPU
  std::unique_ptr<TileStore> store_;           ///< null with a device
  std::unique_ptr<DeviceTiles> device_tiles_;  ///< null without a device
  std::shared_ptr<FrozenLayers> frozen_;       ///< only where its features are not kept
  std::unique_ptr<FeatureCache> cache_;
};

}  // namespace quadrat
