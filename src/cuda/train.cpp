#include <ATen/cuda/CUDAContext.h>
#include <ATen/cuda/CUDAEvent.h>
#include <ATen/cuda/CUDAGraph.h>
#include <c10/cuda/CUDACachingAllocator.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>

#include <map>
#include <optional>

#include "../train/session_on_gpu.h"
#include "../train/step_graphs.h"
#include "../train/tile_device.h"
#include "quadrat/base/error.h"
#include "quadrat/comm/nccl.h"
#include "quadrat/gpu/check.h"

namespace quadrat {

namespace {

template <typename Work>
auto in_words(const char* action, Work work) {
  try {
    return work();
  } catch (const c10::Error& error) {
    throw DeviceError(action, "", message_of(error), "see nvidia-smi, or give --device cpu");
  }
}

class CudaEvent : public DeviceEvent {
 public:
  explicit CudaEvent(c10::cuda::CUDAStream stream) {
    in_words("queue work on the GPU", [&] { event_.record(stream); });
  }
  void wait() override {
    in_words("wait for the GPU", [&] { event_.synchronize(); });
  }
  void block(c10::cuda::CUDAStream stream) {
    in_words("queue work on the GPU", [&] { event_.block(stream); });
  }

 private:
  at::cuda::CUDAEvent event_;
};

class CudaTileDevice : public TileDevice {
 public:
  explicit CudaTileDevice(torch::Device device)
      : device_(device),
        copies_(c10::cuda::getStreamFromPool(/*isHighPriority=*/false, device.index())) {}

  std::uint64_t free_bytes() const override {
    const c10::cuda::CUDAGuard guard(device_);
    std::size_t free = 0, total = 0;
    gpu::check(cudaMemGetInfo(&free, &total), "ask for the GPU's free memory");
    return free;
  }

  torch::Tensor allocate(std::int64_t bytes) override {
    // LibTorch hands memory on as soon as the stream it was got on is past its last use. What
    // copies are to write must have been got on theirs.
    const c10::cuda::CUDAStreamGuard guard(copies_);
    return in_words("get memory for tiles on the GPU", [&] {
      return torch::empty({bytes}, torch::TensorOptions(torch::kByte).device(device_));
    });
  }

  torch::Tensor allocate_pinned(std::int64_t bytes) override {
    const c10::cuda::CUDAGuard guard(device_);
    return in_words("get pinned memory for tiles", [&] {
      return torch::empty({bytes}, torch::TensorOptions(torch::kByte).pinned_memory(true));
    });
  }

  DeviceEventPtr copy(const torch::Tensor& pinned, const torch::Tensor& device, std::int64_t bytes,
                      const DeviceEventPtr& after) override {
    const c10::cuda::CUDAGuard guard(device_);
    if (after) static_cast<CudaEvent&>(*after).block(copies_);
    gpu::check(
        cudaMemcpyAsync(device.mutable_data_ptr(), pinned.const_data_ptr(),
                        static_cast<std::size_t>(bytes), cudaMemcpyHostToDevice, copies_.stream()),
        "copy tiles to the GPU");
    return std::make_shared<CudaEvent>(copies_);
  }

  torch::Tensor allocate_batch(std::int64_t count, const gpu::Format& format,
                               gpu::Element element) override {
    const c10::cuda::CUDAGuard guard(device_);
    const auto side = static_cast<std::int64_t>(format.blocks.side);
    const auto channels = static_cast<std::int64_t>(format.blocks.channels);
    const auto type = element == gpu::Element::kBf16 ? torch::kBFloat16 : torch::kFloat;
    return in_words("get memory for a batch on the GPU", [&] {
      return torch::empty({count, channels, side, side},
                          torch::TensorOptions(type).device(device_).memory_format(
                              torch::MemoryFormat::ChannelsLast));
    });
  }

  DeviceEventPtr augment(const torch::Tensor& samples, const gpu::Format& format,
                         gpu::Element element, const torch::Tensor& out,
                         const DeviceEventPtr& after) override {
    const c10::cuda::CUDAGuard guard(device_);
    const auto stream = c10::cuda::getCurrentCUDAStream(device_.index());
    if (after) static_cast<CudaEvent&>(*after).block(stream);
    gpu::augment(static_cast<const gpu::Sample*>(samples.const_data_ptr()), out.size(0), format,
                 element, out.mutable_data_ptr(), stream.stream());
    return std::make_shared<CudaEvent>(stream);
  }

 private:
  torch::Device device_;
  c10::cuda::CUDAStream copies_;
};

class CudaStepGraphs : public StepGraphs {
 public:
  explicit CudaStepGraphs(torch::Device device) : device_(device) {}

  void run(std::int64_t rows, const std::function<void()>& queue) override {
    const c10::cuda::CUDAGuard guard(device_);
    const auto [found, is_first] = graphs_.try_emplace(rows);
    if (is_first) {
      queue();
      return;
    }
    auto& graph = found->second;
    if (!graph) record(graph.emplace(), queue);
    in_words("play a training step on the GPU", [&] { graph->replay(); });
  }

 private:
  void record(at::cuda::CUDAGraph& graph, const std::function<void()>& queue) {
    // A recording's memory is its own: what earlier steps left in reserve would stay unused beside
    // it. Recordings share theirs, since no two play at once and none reads what another left.
    in_words("record a training step on the GPU", [&] {
      gpu::check(cudaDeviceSynchronize(), "wait for the GPU");
      c10::cuda::CUDACachingAllocator::emptyCache();
      // Tiles may be on their way meanwhile, on another thread.
      graph.capture_begin(pool_, cudaStreamCaptureModeThreadLocal);
    });
    try {
      queue();
    } catch (...) {
      try {
        graph.capture_end();
      } catch (const c10::Error&) {
        // What ended the recording is what counts.
      }
      throw;
    }
    in_words("record a training step on the GPU", [&] { graph.capture_end(); });
  }

  torch::Device device_;
  at::cuda::MempoolId_t pool_ = at::cuda::graph_pool_handle();
  std::map<std::int64_t, std::optional<at::cuda::CUDAGraph>> graphs_;  ///< by rows
};

void take_stream_of_its_own(torch::Device device) {
  in_words("get a stream of the GPU", [&] {
    c10::cuda::setCurrentCUDAStream(
        c10::cuda::getStreamFromPool(/*isHighPriority=*/false, device.index()));
  });
}

const bool kIsThere = [] {
  make_cuda_tile_device = [](torch::Device device) -> std::unique_ptr<TileDevice> {
    return std::make_unique<CudaTileDevice>(device);
  };
  make_cuda_step_graphs = [](torch::Device device) -> std::unique_ptr<StepGraphs> {
    return std::make_unique<CudaStepGraphs>(device);
  };
  leave_default_stream = take_stream_of_its_own;
  make_gpu_all_reduce = comm::make_nccl_all_reduce;
  return true;
}();

}  // namespace

}  // namespace quadrat
