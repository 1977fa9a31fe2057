#pragma once

#include <cuda_runtime.h>

#include <string>

#include "quadrat/base/error.h"

namespace quadrat::gpu {

/// @param action what was tried, as in "copy tiles to the GPU" @throws DeviceError
inline void check(cudaError_t error, const char* action) {
  if (error == cudaSuccess) return;
  // What is thrown is not to be found again, as the last error, by whoever asks CUDA next.
  static_cast<void>(cudaGetLastError());
  throw DeviceError(action, "",
                    std::string(cudaGetErrorName(error)) + ": " + cudaGetErrorString(error),
                    "see nvidia-smi, or give --device cpu");
}

}  // namespace quadrat::gpu
