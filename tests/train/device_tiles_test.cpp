// Tiles on a GPU, with a device made of host memory that does what is queued as late as it may.
#include "device_tiles.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <thread>

#include "quadrat/base/error.h"
#include "quadrat/image/png.h"

namespace quadrat {
namespace {

/// Two queues, one of copies and one of augmentations. Nothing queued is done before somebody waits
/// for it or for what comes after it: whoever overwrites too early what a queued copy still has to
/// read is found out.
class LazyDevice : public TileDevice {
 public:
  LazyDevice(const TileTransform& transform, std::uint64_t free_bytes)
      : transform_(transform), free_bytes_(free_bytes) {}

  std::uint64_t free_bytes() const override { return free_bytes_; }

  torch::Tensor allocate(std::int64_t bytes) override {
    allocated_ += bytes;
    return torch::full({bytes}, 0xCD, torch::kByte);
  }
  torch::Tensor allocate_pinned(std::int64_t bytes) override { return allocate(bytes); }

  DeviceEventPtr copy(const torch::Tensor& pinned, const torch::Tensor& device, std::int64_t bytes,
                      const DeviceEventPtr& after) override {
    copied_bytes_ += bytes;
    return enqueue(last_copy_, after, [=] {
      std::memcpy(device.mutable_data_ptr(), pinned.const_data_ptr(),
                  static_cast<std::size_t>(bytes));
    });
  }

  torch::Tensor allocate_batch(std::int64_t count, const gpu::Format& format,
                               gpu::Element element) override {
    EXPECT_EQ(element, gpu::Element::kFloat32);
    const std::int64_t side = format.side_px;
    return torch::zeros({count, 3, side, side}).contiguous(torch::MemoryFormat::ChannelsLast);
  }

  DeviceEventPtr augment(const torch::Tensor& samples, const gpu::Format& /*format*/,
                         gpu::Element /*element*/, const torch::Tensor& out,
                         const DeviceEventPtr& after) override {
    return enqueue(last_augment_, after, [=, this] {
      auto* to = out.mutable_data_ptr<float>();
      for (std::int64_t i = 0; i < out.size(0); ++i, to += transform_.values_per_tile()) {
        gpu::Sample sample;
        std::memcpy(&sample,
                    static_cast<const std::byte*>(samples.const_data_ptr()) + i * sizeof sample,
                    sizeof sample);
        transform_.apply(sample.draw, sample.rgb, to);
      }
    });
  }

  /// Queues a reader where the network would be queued. @return what it will have read
  torch::Tensor read(const torch::Tensor& batch) {
    auto seen = torch::zeros_like(batch);
    enqueue(last_augment_, nullptr, [=] { seen.copy_(batch); });
    return seen;
  }

  /// Does all that was queued.
  void settle() {
    std::shared_ptr<Event> copy, augment;
    {
      const std::lock_guard lock(mutex_);
      copy = last_copy_;
      augment = last_augment_;
    }
    if (copy) copy->wait();
    if (augment) augment->wait();
  }

  std::int64_t copied_bytes() const { return copied_bytes_; }

 private:
  struct Event : DeviceEvent {
    std::recursive_mutex& all;
    std::vector<DeviceEventPtr> before;
    std::function<void()> work;
    explicit Event(std::recursive_mutex& mutex) : all(mutex) {}
    void wait() override {
      const std::lock_guard lock(all);
      for (const auto& event : std::exchange(before, {})) event->wait();
      if (work) std::exchange(work, nullptr)();
    }
  };

  DeviceEventPtr enqueue(std::shared_ptr<Event>& last, const DeviceEventPtr& after,
                         std::function<void()> work) {
    const std::lock_guard lock(mutex_);
    auto event = std::make_shared<Event>(mutex_);
    event->work = std::move(work);
    if (last) event->before.push_back(last);
    if (after) event->before.push_back(after);
    last = event;
    return event;
  }

  const TileTransform& transform_;
  std::uint64_t free_bytes_;
  std::int64_t allocated_ = 0;
  std::atomic<std::int64_t> copied_bytes_ = 0;
  std::recursive_mutex mutex_;
  std::shared_ptr<Event> last_copy_, last_augment_;
};

class DeviceTilesTest : public testing::Test {
 protected:
  static constexpr std::uint32_t kSide = 8;
  static constexpr std::uint32_t kTiles = 30;

  DeviceTilesTest() : transform_(kSide, {0, 0, 0}, {1, 1, 1}, Augment::kSample, 3) {
    std::string name = "/tmp/quadrat-test-XXXXXX";
    root_ = ::mkdtemp(name.data());
    make_folder(root_ / "a");
    make_folder(root_ / "b");
    std::vector<std::uint8_t> rgb(std::size_t{3} * kSide * kSide);
    for (std::uint32_t tile = 0; tile < kTiles; ++tile) {
      for (std::size_t i = 0; i < rgb.size(); ++i)
        rgb[i] = static_cast<std::uint8_t>(tile * 37 + i * (tile + 3));
      write_file(root_ / (tile < 20 ? "a" : "b") / (std::to_string(10 + tile) + ".png"),
                 encode_png(rgb, kSide, kSide));
    }
    catalog_ = list_labelled_tiles(root_);
  }
  ~DeviceTilesTest() override { std::filesystem::remove_all(root_); }

  /// All tiles but the first.
  static std::vector<std::uint32_t> tiles() {
    std::vector<std::uint32_t> all;
    for (std::uint32_t tile = 1; tile < kTiles; ++tile) all.push_back(tile);
    return all;
  }

  /// Batches of several sizes, one of them empty, with views of a tile beside each other.
  static std::vector<Sample> samples(std::int64_t step) {
    std::vector<Sample> of_step;
    const std::int64_t rows = step % 5 == 3 ? 0 : 3 + 4 * (step % 4);
    for (std::int64_t i = 0; i < rows; ++i) {
      of_step.push_back({static_cast<std::uint32_t>(1 + (step * 11 + i / 2 * 7) % (kTiles - 1)),
                         static_cast<std::uint64_t>(step + i % 2)});
    }
    return of_step;
  }

  Path root_;
  Catalog catalog_;
  TileTransform transform_;
};

TEST_F(DeviceTilesTest, batches_are_the_cpus_whatever_the_device_keeps) {
  constexpr Steps kSteps{2, 22};
  for (const std::size_t kept : {0U, 12U, 29U}) {
    for (const bool augmented : {false, true}) {
      LazyDevice device(transform_, 0);
      DeviceTiles on_device(
          device, transform_, catalog_, tiles(),
          {kept, {1 << 20, ""}, gpu::Element::kFloat32, InputBlocks::plain(kSide), 3});
      TileStore store(catalog_, tiles(), kSide, {1 << 20, ""});
      BatchStream expected(store, transform_, augmented, samples, kSteps);
      const auto stream = on_device.stream(augmented, samples, kSteps);
      std::vector<Batch> found;
      for (std::int64_t step = kSteps.first; step < kSteps.second; ++step) {
        found.push_back(stream->next());
        found.back().input = device.read(found.back().input);
        // Time for the thread that fills buffers to overwrite what is not done with yet.
        if (step < 8) std::this_thread::sleep_for(std::chrono::milliseconds(5));
      }
      device.settle();
      for (const Batch& batch : found) {
        const Batch wanted = expected.next();
        EXPECT_EQ(batch.tiles, wanted.tiles);
        EXPECT_TRUE(torch::equal(batch.input, wanted.input)) << kept;
        EXPECT_TRUE(batch.input.is_contiguous(torch::MemoryFormat::ChannelsLast));
      }
    }
  }
}

TEST_F(DeviceTilesTest, what_is_kept_is_copied_once) {
  LazyDevice device(transform_, 0);
  const auto tile_bytes = static_cast<std::int64_t>(transform_.values_per_tile());
  DeviceTiles on_device(device, transform_, catalog_, tiles(),
                        {29, {}, gpu::Element::kFloat32, InputBlocks::plain(kSide), 2});
  EXPECT_EQ(device.copied_bytes(), 29 * tile_bytes);
  std::int64_t rows = 0;
  const auto stream = on_device.stream(true, samples, {0, 10});
  for (std::int64_t step = 0; step < 10; ++step) rows += stream->next().input.size(0);
  EXPECT_EQ(device.copied_bytes(),
            29 * tile_bytes + rows * static_cast<std::int64_t>(sizeof(gpu::Sample)));
}

TEST_F(DeviceTilesTest, a_stream_may_be_left_early_and_another_follow) {
  LazyDevice device(transform_, 0);
  DeviceTiles on_device(device, transform_, catalog_, tiles(),
                        {5, {}, gpu::Element::kFloat32, InputBlocks::plain(kSide), 1});
  on_device.stream(true, samples, {0, 10})->next();
  const auto again = on_device.stream(false, samples, {0, 1})->next();
  device.settle();
  TileStore store(catalog_, tiles(), kSide, {});
  EXPECT_TRUE(torch::equal(again.input,
                           BatchStream(store, transform_, false, samples, {0, 1}).next().input));
}

TEST_F(DeviceTilesTest, a_tile_that_cannot_be_used_is_named) {
  write_file(root_ / "b/31.png", "no tile");
  const auto work = [&](std::size_t kept) {
    LazyDevice device(transform_, 0);
    DeviceTiles on_device(device, transform_, catalog_, tiles(),
                          {kept, {}, gpu::Element::kFloat32, InputBlocks::plain(kSide), 2});
    const auto stream = on_device.stream(true, samples, {0, 30});
    for (int step = 0; step < 30; ++step) stream->next();
  };
  for (const std::size_t kept : {0U, 29U}) {
    try {
      work(kept);
      ADD_FAILURE() << "no error with " << kept << " kept";
    } catch (const InputError& error) {
      EXPECT_THAT(error.what(), testing::HasSubstr("b/31.png"));
    }
  }
}

TEST(BatchLayout, copies_each_tile_once_and_none_that_is_kept) {
  const BatchLayout layout =
      lay_out({{4, 0}, {9, 0}, {9, 1}, {2, 0}, {7, 5}, {9, 2}}, {2, 4, 7, 9}, 2);
  EXPECT_EQ(layout.copied, (std::vector<std::uint32_t>{9, 7}));
  std::vector<std::pair<bool, std::size_t>> places;
  for (const auto& place : layout.places) places.emplace_back(place.is_kept, place.row);
  EXPECT_EQ(places, (std::vector<std::pair<bool, std::size_t>>{
                        {true, 1}, {false, 0}, {false, 0}, {true, 0}, {false, 1}, {false, 0}}));
}

TEST(BytesForTiles, leaves_room_for_the_network) {
  EXPECT_EQ(bytes_for_tiles(2'000'000'000, 1), 0U);
  EXPECT_EQ(bytes_for_tiles(3'060'000'000, 1), 0U);
  EXPECT_EQ(bytes_for_tiles(80'000'000'000, 1000), 17'000'000'000U);
}

}  // namespace
}  // namespace quadrat
