#pragma once

#include <torch/torch.h>

#include <condition_variable>
#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <queue>
#include <thread>
#include <utility>
#include <vector>

#include "quadrat/tiles/augment.h"
#include "quadrat/tiles/shard_plan.h"
#include "quadrat/tiles/tile_store.h"

namespace quadrat {

/// This rank's part of a global batch. The tensors are valid until the batch after the next is asked for.
struct Batch {
  torch::Tensor input;               ///< [n, 3, S, S] float32, channels last
  std::vector<std::uint32_t> tiles;  ///< n catalog indices
};

/// Decodes, augments and normalises the next batches on a thread of its own while this one is computed on.
class BatchStream {
 public:
  /// Which tiles are in step k: maybe none, where this rank's shards have run dry before others'.
  using TilesOfStep = std::function<std::vector<std::uint32_t>(std::int64_t step)>;
  /// Fills [side, side, 3] floats from the tile's pixels.
  using Transform = std::function<void(const std::uint8_t* pixels, std::uint32_t tile, float* out)>;

  /// @param store is used by the stream's thread alone while the stream lives
  /// @param steps first, and one past the last
  BatchStream(TileStore& store, std::uint32_t side_px, TilesOfStep tiles, Transform transform,
              std::pair<std::int64_t, std::int64_t> steps);
  ~BatchStream();
  BatchStream(const BatchStream&) = delete;
  BatchStream& operator=(const BatchStream&) = delete;

  /// The next step's batch. Must not be asked for more often than there are steps.
  /// @throws what reading or decoding threw
  Batch next();

 private:
  void produce(std::pair<std::int64_t, std::int64_t> steps);
  torch::Tensor buffer(std::int64_t step, std::int64_t rows);

  static constexpr std::size_t kAhead = 2;

  TileStore& store_;
  std::int64_t side_px_;
  TilesOfStep tiles_;
  Transform transform_;
  std::vector<torch::Tensor> buffers_;  ///< one each for what is computed on, what waits and what is being made
  std::mutex mutex_;
  std::condition_variable changed_;
  std::queue<Batch> ready_;
  std::exception_ptr failed_;
  bool stop_ = false;
  std::thread thread_;
};

}  // namespace quadrat
