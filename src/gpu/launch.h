#pragma once

#include <type_traits>

#include "quadrat/gpu/check.h"

namespace quadrat::gpu {

struct Launch {
  dim3 blocks, threads;
  CUstream_st* stream = nullptr;
  std::size_t shared_bytes = 0;
};

/// Above it CUDA wants to be asked, with what a kernel's own arrays take in it.
inline constexpr std::size_t kSharedWithoutAsking = std::size_t{40} << 10;

/// Queues kernel(arguments...): what <<<>>> does, in C++, so that tests compile kernels for the CPU
/// too. @param action as check()'s @throws DeviceError
template <typename... Parameters>
void launch(const char* action, const Launch& how, void (*kernel)(Parameters...),
            std::type_identity_t<Parameters>... arguments) {
  if (how.shared_bytes > kSharedWithoutAsking) {
    check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                               static_cast<int>(how.shared_bytes)),
          action);
  }
  cudaLaunchConfig_t config{};
  config.gridDim = how.blocks;
  config.blockDim = how.threads;
  config.dynamicSmemBytes = how.shared_bytes;
  config.stream = how.stream;
  check(cudaLaunchKernelEx(&config, kernel, arguments...), action);
}

/// In a kernel: the launch's shared_bytes.
__device__ inline void* launch_memory() {
#if defined(__CUDACC__)
  extern __shared__ uint4 memory[];
  return memory;
#else
  return cuda_on_cpu::shared_memory();
#endif
}

}  // namespace quadrat::gpu
