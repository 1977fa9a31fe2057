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
#include "quadrat/tiles/tile_store.h"

namespace quadrat {

/// A tile under one of its augmentations, which are numbered.
struct Sample {
  std::uint32_t tile = 0;  ///< catalog index
  std::uint64_t view = 0;
};

/// This rank's part of a batch. Valid until the next is asked for: on a GPU, for what was queued
/// before.
struct Batch {
  /// [n, 3, S, S] float32, channels last; on a GPU in Network::input_blocks; or what frozen layers
  /// make of that
  torch::Tensor input;
  std::vector<std::uint32_t> tiles;  ///< n catalog indices
};

/// First step, and one past the last.
using Steps = std::pair<std::int64_t, std::int64_t>;

/// Which samples are in a step: maybe none, where this rank's shards have run dry before others'.
using SamplesOfStep = std::function<std::vector<Sample>(std::int64_t step)>;

/// Batches, one step after the other.
class InputStream {
 public:
  virtual ~InputStream() = default;
  /// Must not be asked for more often than there are steps. @throws what reading or decoding threw
  virtual Batch next() = 0;
};

/// Decodes, augments and normalises the next batches on a thread of its own while this one is
/// computed on.
class BatchStream : public InputStream {
 public:
  /// @param store is used by the stream's thread alone while the stream lives
  /// @param augmented false: every view is the plain tile
  BatchStream(TileStore& store, const TileTransform& transform, bool augmented,
              SamplesOfStep samples, Steps steps);
  ~BatchStream() override;
  BatchStream(const BatchStream&) = delete;
  BatchStream& operator=(const BatchStream&) = delete;

  Batch next() override;

 private:
  void produce(Steps steps);
  torch::Tensor buffer(std::int64_t step, std::int64_t rows);

  static constexpr std::size_t kAhead = 2;

  TileStore& store_;
  const TileTransform& transform_;
  bool augmented_;
  SamplesOfStep samples_;
  std::vector<torch::Tensor>
      buffers_;  ///< one each for what is computed on, what waits and what is being made
  std::mutex mutex_;
  std::condition_variable changed_;
  std::queue<Batch> ready_;
  std::exception_ptr failed_;
  bool stop_ = false;
  std::thread thread_;
};

}  // namespace quadrat
