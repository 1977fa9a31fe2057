#include "device_tiles.h"

#include <algorithm>
#include <array>
#include <condition_variable>
#include <cstring>
#include <exception>
#include <mutex>
#include <queue>
#include <thread>
#include <unordered_map>
#include <utility>

namespace quadrat {

namespace {

/// Tiles uploaded at once when the kept ones are decoded: 38 MB.
constexpr std::size_t kUploadedAtOnce = 256;

}  // namespace

std::uint64_t bytes_for_tiles(std::uint64_t free_bytes, std::int64_t rows_at_once) {
  constexpr std::uint64_t kFixed = 3'000'000'000;
  constexpr std::uint64_t kRow = 60'000'000;
  const std::uint64_t reserved = kFixed + kRow * static_cast<std::uint64_t>(rows_at_once);
  return free_bytes > reserved ? free_bytes - reserved : 0;
}

BatchLayout lay_out(const std::vector<Sample>& samples, const std::vector<std::uint32_t>& tiles,
                    std::size_t kept) {
  BatchLayout layout;
  std::unordered_map<std::uint32_t, std::size_t> row_of;
  for (const Sample& sample : samples) {
    const auto position = static_cast<std::size_t>(
        std::lower_bound(tiles.begin(), tiles.end(), sample.tile) - tiles.begin());
    if (position < kept) {
      layout.places.push_back({true, position});
      continue;
    }
    const auto [row, is_new] = row_of.emplace(sample.tile, layout.copied.size());
    if (is_new) layout.copied.push_back(sample.tile);
    layout.places.push_back({false, row->second});
  }
  return layout;
}

DeviceTiles::DeviceTiles(TileDevice& device, const TileTransform& transform, const Catalog& catalog,
                         std::vector<std::uint32_t> tiles, const Options& options)
    : device_(device),
      transform_(transform),
      tiles_(std::move(tiles)),
      options_(options),
      others_(catalog, {tiles_.begin() + static_cast<std::ptrdiff_t>(options.kept), tiles_.end()},
              transform.side_px(), options.host),
      tile_bytes_(static_cast<std::int64_t>(transform.values_per_tile())) {
  upload_kept(catalog);
}

void DeviceTiles::upload_kept(const Catalog& catalog) {
  const std::size_t kept = options_.kept;
  if (kept == 0) return;
  const auto of_device = std::span(tiles_).first(kept);
  TileStore decoder(catalog, {of_device.begin(), of_device.end()}, transform_.side_px(), {0, {}});
  kept_tiles_ = device_.allocate(static_cast<std::int64_t>(kept) * tile_bytes_);
  struct Buffer {
    torch::Tensor host;
    DeviceEventPtr copied;
  };
  // One is decoded into while the other is on its way.
  std::array<Buffer, 2> buffers;
  const std::size_t at_once = std::min(kept, kUploadedAtOnce);
  for (std::size_t first = 0, turn = 0; first < kept; first += at_once, ++turn) {
    Buffer& buffer = buffers[turn % buffers.size()];
    const std::size_t here = std::min(at_once, kept - first);
    const auto bytes = static_cast<std::int64_t>(here) * tile_bytes_;
    if (buffer.copied) buffer.copied->wait();
    if (!buffer.host.defined())
      buffer.host = device_.allocate_pinned(static_cast<std::int64_t>(at_once) * tile_bytes_);
    decoder.copy(of_device.subspan(first, here), buffer.host.mutable_data_ptr<std::uint8_t>(),
                 options_.threads);
    buffer.copied = device_.copy(
        buffer.host, kept_tiles_.narrow(0, static_cast<std::int64_t>(first) * tile_bytes_, bytes),
        bytes, nullptr);
  }
  for (Buffer& buffer : buffers) {
    if (buffer.copied) buffer.copied->wait();
  }
}

torch::Tensor DeviceTiles::batch_of(std::int64_t count, const gpu::Format& format) {
  if (!batch_.defined() || batch_.size(0) < count)
    batch_ = device_.allocate_batch(count, format, options_.element);
  return batch_.narrow(0, 0, count);
}

/// Fills buffers on a thread of its own, ahead of the batch that is asked for.
class DeviceTiles::Stream : public InputStream {
 public:
  Stream(DeviceTiles& owner, bool augmented, SamplesOfStep samples, Steps steps)
      : owner_(owner), augmented_(augmented), samples_of_(std::move(samples)) {
    for (std::size_t i = 0; i < slots_.size(); ++i) free_.push(i);
    thread_ = std::thread([this, steps] { produce(steps); });
  }

  ~Stream() override {
    {
      const std::lock_guard lock(mutex_);
      stop_ = true;
    }
    changed_.notify_all();
    thread_.join();
    // Buffers that are still being read must not be freed.
    for (Slot& slot : slots_) {
      try {
        if (slot.copied) slot.copied->wait();
        if (slot.used) slot.used->wait();
      } catch (const std::exception&) {
        // The device is broken, which whoever uses it next is told.
      }
    }
  }

  Batch next() override {
    std::size_t index = 0;
    {
      std::unique_lock lock(mutex_);
      changed_.wait(lock, [&] { return !ready_.empty() || failed_; });
      if (ready_.empty()) std::rethrow_exception(failed_);
      index = ready_.front();
      ready_.pop();
    }
    Slot& slot = slots_[index];
    Batch batch;
    for (const Sample& sample : slot.batch) batch.tiles.push_back(sample.tile);
    const auto& transform = owner_.transform_;
    gpu::Format format = gpu::format_of(transform, owner_.options_.blocks);
    format.crops = augmented_ && transform.augment() == Augment::kSample;
    batch.input = owner_.batch_of(std::ssize(slot.batch), format);
    if (!slot.batch.empty())
      slot.used = owner_.device_.augment(slot.samples.device, format, owner_.options_.element,
                                         batch.input, slot.copied);
    {
      const std::lock_guard lock(mutex_);
      free_.push(index);
    }
    changed_.notify_all();
    return batch;
  }

 private:
  /// Host memory and as much on the device.
  struct Twin {
    torch::Tensor host, device;
  };
  struct Slot {
    std::vector<Sample> batch;
    Twin pixels;   ///< [tiles copied, side, side, 3]
    Twin samples;  ///< gpu::Sample [n]
    DeviceEventPtr copied, used;
  };

  void produce(Steps steps) {
    try {
      for (std::int64_t step = steps.first; step < steps.second; ++step) {
        std::size_t index = 0;
        {
          std::unique_lock lock(mutex_);
          changed_.wait(lock, [&] { return stop_ || !free_.empty(); });
          if (stop_) return;
          index = free_.front();
          free_.pop();
        }
        fill(slots_[index], step);
        {
          const std::lock_guard lock(mutex_);
          ready_.push(index);
        }
        changed_.notify_all();
      }
    } catch (...) {
      {
        const std::lock_guard lock(mutex_);
        failed_ = std::current_exception();
      }
      changed_.notify_all();
    }
  }

  void fill(Slot& slot, std::int64_t step) {
    slot.batch = samples_of_(step);
    const BatchLayout layout = lay_out(slot.batch, owner_.tiles_, owner_.options_.kept);
    // The host's side is written to now, the device's only once its last batch is done with it.
    if (slot.copied) slot.copied->wait();
    make_room(slot, slot.pixels, std::ssize(layout.copied) * owner_.tile_bytes_);
    make_room(slot, slot.samples,
              std::ssize(slot.batch) * static_cast<std::int64_t>(sizeof(gpu::Sample)));
    if (!layout.copied.empty()) {
      owner_.others_.copy(layout.copied, slot.pixels.host.mutable_data_ptr<std::uint8_t>(),
                          owner_.options_.threads);
      slot.copied = owner_.device_.copy(slot.pixels.host, slot.pixels.device,
                                        std::ssize(layout.copied) * owner_.tile_bytes_, slot.used);
    }
    if (slot.batch.empty()) return;
    auto* sample = reinterpret_cast<gpu::Sample*>(slot.samples.host.mutable_data_ptr());
    for (std::size_t i = 0; i < slot.batch.size(); ++i) {
      const BatchLayout::Place place = layout.places[i];
      const torch::Tensor& pixels = place.is_kept ? owner_.kept_tiles_ : slot.pixels.device;
      gpu::Sample made;
      made.rgb = static_cast<const std::uint8_t*>(pixels.const_data_ptr()) +
                 static_cast<std::int64_t>(place.row) * owner_.tile_bytes_;
      if (augmented_) made.draw = owner_.transform_.draw(slot.batch[i].view, slot.batch[i].tile);
      std::memcpy(sample++, &made, sizeof made);
    }
    slot.copied = owner_.device_.copy(
        slot.samples.host, slot.samples.device,
        std::ssize(slot.batch) * static_cast<std::int64_t>(sizeof(gpu::Sample)), slot.used);
  }

  void make_room(Slot& slot, Twin& twin, std::int64_t bytes) {
    if (bytes == 0 || (twin.host.defined() && twin.host.numel() >= bytes)) return;
    if (slot.used) slot.used->wait();
    twin.host = owner_.device_.allocate_pinned(bytes);
    twin.device = owner_.device_.allocate(bytes);
  }

  DeviceTiles& owner_;
  bool augmented_;
  SamplesOfStep samples_of_;
  std::array<Slot, 3> slots_;  ///< one computed on, one on its way, one being filled
  std::mutex mutex_;
  std::condition_variable changed_;
  std::queue<std::size_t> free_, ready_;
  std::exception_ptr failed_;
  bool stop_ = false;
  std::thread thread_;
};

std::unique_ptr<InputStream> DeviceTiles::stream(bool augmented, SamplesOfStep samples,
                                                 Steps steps) {
  return std::make_unique<Stream>(*this, augmented, std::move(samples), steps);
}

}  // namespace quadrat
