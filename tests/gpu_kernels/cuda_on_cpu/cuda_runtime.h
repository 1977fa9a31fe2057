#pragma once

#include <math.h>

#include <cstddef>
#include <functional>
#include <utility>

/// What of CUDA's runtime our kernels use, run by the host: blocks one after the other, a block's
/// threads one at a time from barrier to barrier. So their arithmetic, bounds and barriers are
/// tested without a GPU, also under the host's sanitizers. Names and meanings are CUDA's own.

#define __global__
#define __device__
#define __host__
#define __shared__ static
#define __launch_bounds__(...)

struct uint3 {
  unsigned x = 0, y = 0, z = 0;
};

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};

struct alignas(16) uint4 {
  unsigned x, y, z, w;
};

struct alignas(16) float4 {
  float x, y, z, w;
};

inline uint3 threadIdx, blockIdx;
inline dim3 blockDim, gridDim;

void __syncthreads();
float __uint_as_float(unsigned bits);

struct CUstream_st;
using cudaStream_t = CUstream_st*;

enum cudaError_t { cudaSuccess = 0, cudaErrorInvalidValue = 1, cudaErrorInvalidConfiguration = 9 };
enum cudaDeviceAttr { cudaDevAttrMultiProcessorCount = 16 };
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize = 8 };

const char* cudaGetErrorName(cudaError_t error);
const char* cudaGetErrorString(cudaError_t error);
cudaError_t cudaGetLastError();
cudaError_t cudaGetDevice(int* device);
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device);
cudaError_t cudaMemsetAsync(void* memory, int value, std::size_t bytes, cudaStream_t stream);

struct cudaLaunchConfig_t {
  dim3 gridDim, blockDim;
  std::size_t dynamicSmemBytes = 0;
  cudaStream_t stream = nullptr;
};

namespace cuda_on_cpu {

/// Which thread of a block goes first after a barrier. What a kernel computes depends on it where a
/// barrier is missing. A barrier that only some of a block's threads come to ends the process.
enum class Order { kForward, kBackward, kShuffled };
void set_order(Order order);

/// Launches so far.
int launches();

/// The running block's memory of the launch's size: to the byte, for the address sanitizer.
void* shared_memory();

cudaError_t run(const cudaLaunchConfig_t& config, const void* kernel,
                const std::function<void()>& thread);
cudaError_t allow_shared_bytes(const void* kernel, int bytes);

}  // namespace cuda_on_cpu

template <typename... Parameters, typename... Arguments>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Parameters...),
                               Arguments&&... arguments) {
  return cuda_on_cpu::run(*config, reinterpret_cast<const void*>(kernel),
                          [&] { kernel(Parameters(arguments)...); });
}

template <typename... Parameters>
cudaError_t cudaFuncSetAttribute(void (*kernel)(Parameters...), cudaFuncAttribute /*attribute*/,
                                 int value) {
  return cuda_on_cpu::allow_shared_bytes(reinterpret_cast<const void*>(kernel), value);
}

template <typename T>
T __ldg(const T* from) {
  return *from;
}
