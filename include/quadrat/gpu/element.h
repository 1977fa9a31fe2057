#pragma once

#include <cstdint>

/// CUDA's stream, as <cuda_runtime.h> has it: cudaStream_t is a pointer to it.
struct CUstream_st;

namespace quadrat::gpu {

/// What a tensor in the GPU's memory is made of.
enum class Element : std::uint8_t { kFloat32, kBf16 };

}  // namespace quadrat::gpu
