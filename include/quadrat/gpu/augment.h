#pragma once

#include <cstdint>

#include "quadrat/tiles/augment_arithmetic.h"

/// CUDA's stream, as <cuda_runtime.h> has it: cudaStream_t is a pointer to it.
struct CUstream_st;

namespace quadrat::gpu {

/// A tile in the GPU's memory and what becomes of it.
struct Sample {
  const std::uint8_t* rgb = nullptr;  ///< [side, side, 3]
  AugmentDraw draw;
};

/// What all samples of a batch have in common.
struct Format {
  std::uint32_t side_px = 0;
  augment::Rgb mean{}, std{};     ///< in units of full scale
  const float* lookup = nullptr;  ///< TileTransform::lookup() in the GPU's memory
};

enum class Element : std::uint8_t { kFloat32, kBf16 };

/// Augments, normalises and lays out a batch as TileTransform::apply does, by one kernel: reads
/// uint8, writes [count, 3, side, side] channels-last. Queued on `stream`; returns at once. Without
/// a crop float32 is TileTransform's to the bit; in a crop the mean grey is summed in another order
/// (see augment_block.h); bf16 is float32 rounded to nearest, ties to even.
/// @param samples [count] in the GPU's memory, as is `out`, which is aligned to 16 bytes
/// @throws DeviceError where the kernel cannot be launched
void augment(const Sample* samples, std::int64_t count, const Format& format, Element element,
             void* out, CUstream_st* stream);

}  // namespace quadrat::gpu
