#pragma once

#include <torch/torch.h>

#include <cstdint>
#include <functional>
#include <memory>

namespace quadrat {

/// Training steps of a GPU, recorded and played back: the hundreds of kernels of a step are then
/// queued as one CUDA graph, and the host's work is no longer part of a step's time.
class StepGraphs {
 public:
  virtual ~StepGraphs() = default;

  /// Does what `queue` does: the first time for so many rows by calling it (cuDNN tries its
  /// algorithms then), the second time by recording what it queues, later by playing that back.
  /// `queue` must queue the same work each time, on the current stream, and wait for none of it.
  /// What it reads and writes must stay where it was when it was recorded; what it allocates
  /// belongs to the recording. @throws DeviceError
  virtual void run(std::int64_t rows, const std::function<void()>& queue) = 0;
};

/// In src/cuda, and null until choose_device() has loaded it.
inline std::unique_ptr<StepGraphs> (*make_cuda_step_graphs)(torch::Device device) = nullptr;

}  // namespace quadrat
