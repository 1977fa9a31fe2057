#pragma once

#include <torch/torch.h>

#include <cstdint>
#include <memory>
#include <span>
#include <utility>

#include "quadrat/gpu/augment.h"

namespace quadrat {

/// Work that was queued on a device, and the host's way of knowing that it is done.
class DeviceEvent {
 public:
  virtual ~DeviceEvent() = default;
  /// Returns when it is done. @throws DeviceError
  virtual void wait() = 0;
};
using DeviceEventPtr = std::shared_ptr<DeviceEvent>;

/// The few things that tiles on a GPU ask of it. What is queued is done later: memory it reads or
/// writes must stay as it is until the event says that it is done. Copies may be queued by one
/// thread while another queues augmentations.
class TileDevice {
 public:
  virtual ~TileDevice() = default;

  virtual std::uint64_t free_bytes() const = 0;
  /// uint8 [bytes], on the device. @throws DeviceError where it has not as much
  virtual torch::Tensor allocate(std::int64_t bytes) = 0;
  /// uint8 [bytes], in host memory that copies need no detour from.
  virtual torch::Tensor allocate_pinned(std::int64_t bytes) = 0;

  /// Queues a copy of the first `bytes`, in the order of such calls. @param after null: of nothing
  virtual DeviceEventPtr copy(const torch::Tensor& pinned, const torch::Tensor& device,
                              std::int64_t bytes, const DeviceEventPtr& after) = 0;

  /// [count, channels, side, side] of the format's blocks, channels last, on the device.
  virtual torch::Tensor allocate_batch(std::int64_t count, const gpu::Format& format,
                                       gpu::Element element) = 0;

  /// Queues gpu::augment where the network is queued too.
  /// @param samples gpu::Sample, as many as `out` has rows, on the device
  virtual DeviceEventPtr augment(const torch::Tensor& samples, const gpu::Format& format,
                                 gpu::Element element, const torch::Tensor& out,
                                 const DeviceEventPtr& after) = 0;
};

/// In src/cuda, and null until choose_device() has loaded it.
inline std::unique_ptr<TileDevice> (*make_cuda_tile_device)(torch::Device device) = nullptr;

}  // namespace quadrat
