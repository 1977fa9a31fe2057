#include "quadrat/score/device.h"

#include <dlfcn.h>

#include <string>

#include "quadrat/base/error.h"
#include "quadrat/base/log.h"

namespace quadrat {

namespace {

bool has_driver() { return ::dlopen("libcuda.so.1", RTLD_LAZY | RTLD_GLOBAL) != nullptr; }

/// src/cuda and what it needs of CUDA and LibTorch: 165 MB of a rank's memory, which a CPU has
/// better uses for. Call it before LibTorch is asked for GPUs the first time: it remembers its
/// answer. @return empty, or why they cannot be
std::string load_gpu_part() {
  if (::dlopen("libquadrat_cuda.so", RTLD_NOW | RTLD_GLOBAL) != nullptr) return {};
  return ::dlerror();
}

}  // namespace

torch::Device choose_device(std::string_view wish, const mpi::Communicator& ranks) {
  if (wish == "cpu") return torch::kCPU;
  std::string missing;
  if (wish == "cuda" || has_driver()) missing = load_gpu_part();
  const bool usable = missing.empty() && torch::cuda::is_available();
  if (wish == "auto" && ranks.min(usable ? 1 : 0) == 0) {
    if (!missing.empty() && ranks.is_root()) log::warn("computing on the CPU: {}", missing);
    return torch::kCPU;
  }
  mpi::together(ranks, [&] {
    if (!missing.empty()) {
      throw DeviceError("use a GPU", "", "this build's part for GPUs cannot be loaded: " + missing,
                        "build with CUDA (the gpu preset), or give --device cpu");
    }
    if (!usable) {
      throw DeviceError("use a GPU", "", "this machine has none that CUDA can use",
                        "give --device cpu");
    }
  });
  const mpi::Communicator host = ranks.split_by_host();
  const auto gpus = static_cast<int>(torch::cuda::device_count());
  return {torch::kCUDA, static_cast<c10::DeviceIndex>(host.rank() % gpus)};
}

}  // namespace quadrat
