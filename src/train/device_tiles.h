#pragma once

#include <torch/torch.h>

#include <cstdint>
#include <memory>
#include <vector>

#include "quadrat/tiles/augment.h"
#include "quadrat/tiles/tile_store.h"
#include "quadrat/train/batches.h"
#include "tile_device.h"

namespace quadrat {

/// What of a device's free memory tiles and features may take. Free stay 3 GB, for cuDNN's scratch
/// memory and what LibTorch holds in reserve, and 60 MB a row for activations: ResNet18 in bf16
/// keeps about 25 MB a tile of 224 px for its backward pass, AlexNet less, and a recorded step's
/// are its own, beside those of an epoch's last batch.
std::uint64_t bytes_for_tiles(std::uint64_t free_bytes, std::int64_t rows_at_once);

/// Where a batch's pixels are found: in the tiles that the device keeps, or among those that have
/// to be copied to it for this batch.
struct BatchLayout {
  struct Place {
    bool is_kept = false;
    std::size_t row = 0;  ///< of the tiles kept, or of those copied
  };
  std::vector<Place> places;          ///< one a sample
  std::vector<std::uint32_t> copied;  ///< tiles, each once, in the order they are first asked for
};

/// @param tiles ascending @param kept how many of them, from the first, the device keeps
BatchLayout lay_out(const std::vector<Sample>& samples, const std::vector<std::uint32_t>& tiles,
                    std::size_t kept);

/// Tiles on a device: decoded once, by all threads, and kept there as bytes while they fit. Those
/// that do not fit are copied batch by batch, through buffers that are filled while the device
/// computes. Either way the device augments them, and a stream's batches are its tensors: all at
/// the same place, where a recorded step finds them.
class DeviceTiles {
 public:
  struct Options {
    std::size_t kept = 0;  ///< tiles, from the first, that the device keeps
    StoreLimits host;      ///< for the others, decoded
    gpu::Element element = gpu::Element::kFloat32;
    InputBlocks blocks;
    int threads = 1;  ///< that decode
  };

  /// @param device,transform,catalog must outlive this @param tiles of the catalog, ascending
  /// @throws as TileStore::copy; DeviceError
  DeviceTiles(TileDevice& device, const TileTransform& transform, const Catalog& catalog,
              std::vector<std::uint32_t> tiles, const Options& options);
  DeviceTiles(const DeviceTiles&) = delete;
  DeviceTiles& operator=(const DeviceTiles&) = delete;

  /// One stream at a time; it must not outlive this. @param augmented false: every view is the
  /// plain tile
  std::unique_ptr<InputStream> stream(bool augmented, SamplesOfStep samples, Steps steps);

 private:
  class Stream;

  void upload_kept(const Catalog& catalog);
  torch::Tensor batch_of(std::int64_t count, const gpu::Format& format);

  TileDevice& device_;
  const TileTransform& transform_;
  std::vector<std::uint32_t> tiles_;
  Options options_;
  TileStore others_;  ///< the tiles that the device does not keep
  std::int64_t tile_bytes_;
  torch::Tensor kept_tiles_;  ///< [kept, side, side, 3] as bytes, on the device
  torch::Tensor batch_;       ///< the batch computed on is its first rows
};

}  // namespace quadrat
