#include "quadrat/train/batches.h"

#include <utility>

namespace quadrat {

BatchStream::BatchStream(TileStore& store, std::uint32_t side_px, TilesOfStep tiles, Transform transform,
                         std::pair<std::int64_t, std::int64_t> steps)
    : store_(store),
      side_px_(side_px),
      tiles_(std::move(tiles)),
      transform_(std::move(transform)),
      buffers_(kAhead + 2),
      thread_([this, steps] { produce(steps); }) {}

BatchStream::~BatchStream() {
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

torch::Tensor BatchStream::buffer(std::int64_t step, std::int64_t rows) {
  torch::Tensor& whole = buffers_[static_cast<std::size_t>(step) % buffers_.size()];
  if (!whole.defined() || whole.size(0) < rows) {
    whole = torch::empty({rows, 3, side_px_, side_px_},
                         torch::TensorOptions(torch::kFloat).memory_format(torch::MemoryFormat::ChannelsLast));
  }
  return whole.narrow(0, 0, rows);
}

void BatchStream::produce(std::pair<std::int64_t, std::int64_t> steps) {
  try {
    for (std::int64_t step = steps.first; step < steps.second; ++step) {
      {
        std::unique_lock lock(mutex_);
        changed_.wait(lock, [&] { return stop_ || ready_.size() < kAhead; });
        if (stop_) return;
      }
      Batch batch;
      batch.tiles = tiles_(step);
      batch.input = buffer(step, std::ssize(batch.tiles));
      auto* out = batch.input.data_ptr<float>();
      for (const std::uint32_t tile : batch.tiles) {
        transform_(store_.pixels(tile), tile, out);
        out += 3 * side_px_ * side_px_;
      }
      const std::lock_guard lock(mutex_);
      ready_.push(std::move(batch));
      changed_.notify_all();
    }
  } catch (...) {
    const std::lock_guard lock(mutex_);
    failed_ = std::current_exception();
    changed_.notify_all();
  }
}

Batch BatchStream::next() {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [&] { return !ready_.empty() || failed_; });
  if (ready_.empty()) std::rethrow_exception(failed_);
  Batch batch = std::move(ready_.front());
  ready_.pop();
  changed_.notify_all();
  return batch;
}

}  // namespace quadrat
