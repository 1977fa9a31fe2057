#pragma once

#include <algorithm>
#include <cstdint>

#include "quadrat/gpu/element.h"
#include "quadrat/tiles/augment.h"
#include "quadrat/tiles/augment_arithmetic.h"
#include "quadrat/tiles/input_blocks.h"

namespace quadrat::gpu {

/// A tile in the GPU's memory and what becomes of it.
struct Sample {
  const std::uint8_t* rgb = nullptr;  ///< [side, side, 3]
  AugmentDraw draw;
};

/// What all samples of a batch have in common.
struct Format {
  std::uint32_t side_px = 0;
  InputBlocks blocks;  ///< of 1, 2 or 4 pixels
  bool crops = false;  ///< whether the samples' draws do: all or none
  augment::Normal normal[3];
  /// Where there are no samples: [count, side, side, 3] in the GPU's memory, taken as they are.
  const std::uint8_t* tiles = nullptr;
};

/// What a transform and a layout leave no choice about.
inline Format format_of(const TileTransform& transform, const InputBlocks& blocks) {
  Format format;
  format.side_px = transform.side_px();
  format.blocks = blocks;
  std::copy(transform.normal().begin(), transform.normal().end(), format.normal);
  return format;
}

/// Augments, normalises and lays out a batch as TileTransform::apply does, by one kernel: reads
/// uint8, writes [count, 3, side, side] channels-last, or the blocks' [count, channels, side,
/// side]. Queued on `stream`; returns at once. Without a crop float32 is TileTransform's to the
/// bit; in a crop the mean grey is another sum, equal but for rounding; bf16 is float32
/// rounded to nearest, ties to even.
/// @param samples [count] in the GPU's memory, or null; `out` is there too, aligned to 16 bytes
/// @throws DeviceError where the kernel cannot be launched
void augment(const Sample* samples, std::int64_t count, const Format& format, Element element,
             void* out, CUstream_st* stream);

}  // namespace quadrat::gpu
