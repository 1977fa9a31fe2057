#include "quadrat/train/batches.h"

#include <utility>

namespace quadrat {

BatchStream::BatchStream(TileStore& store, const TileTransform& transform, bool augmented,
                         SamplesOfStep samples, Steps steps)
    : store_(store),
      transform_(transform),
      augmented_(augmented),
      samples_(std::move(samples)),
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
    const auto side = static_cast<std::int64_t>(transform_.side_px());
    whole = torch::empty(
        {rows, 3, side, side},
        torch::TensorOptions(torch::kFloat).memory_format(torch::MemoryFormat::ChannelsLast));
  }
  return whole.narrow(0, 0, rows);
}

void BatchStream::produce(Steps steps) {
  try {
    for (std::int64_t step = steps.first; step < steps.second; ++step) {
      {
        std::unique_lock lock(mutex_);
        changed_.wait(lock, [&] { return stop_ || ready_.size() < kAhead; });
        if (stop_) return;
      }
      Batch batch;
      const std::vector<Sample> samples = samples_(step);
      batch.input = buffer(step, std::ssize(samples));
      auto* out = batch.input.data_ptr<float>();
      const std::uint8_t* pixels = nullptr;
      for (const Sample& sample : samples) {
        // Views of one tile follow each other where all are made: decoded once, kept or not.
        if (batch.tiles.empty() || batch.tiles.back() != sample.tile)
          pixels = store_.pixels(sample.tile);
        if (augmented_) {
          transform_.train(pixels, sample.view, sample.tile, out);
        } else {
          transform_.plain(pixels, out);
        }
        out += transform_.values_per_tile();
        batch.tiles.push_back(sample.tile);
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
