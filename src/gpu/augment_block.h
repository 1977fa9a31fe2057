#pragma once

#include <cuda_bf16.h>

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "quadrat/gpu/augment.h"
#include "quadrat/tiles/augment_arithmetic.h"

/// What the augmentation's kernels are made of: a block reads pixels of its tile into shared
/// memory, a word each, and writes 16 bytes at a time.

namespace quadrat::gpu {

/// From the GPU's own memory, which nobody writes to meanwhile. @param from 4 bytes, aligned
__device__ inline std::uint32_t loaded_word(const std::uint8_t* from) {
  using Word __attribute__((may_alias)) = std::uint32_t;
  return __ldg(reinterpret_cast<const Word*>(from));
}

/// Which of the block's threads this is.
struct Thread {
  std::uint32_t index, of;
};

/// Goes over a rectangle, row by row, in steps of so many places. Divides only at the start.
class Steps {
 public:
  __device__ Steps(std::uint32_t start, std::uint32_t step, std::uint32_t columns)
      : row(start / columns),
        column(start % columns),
        rows_(step / columns),
        columns_(step % columns),
        of_(columns) {}

  __device__ void next() {
    row += rows_;
    column += columns_;
    if (column < of_) return;
    column -= of_;
    ++row;
  }

  std::uint32_t row, column;

 private:
  std::uint32_t rows_, columns_, of_;
};

/// Part of a tile: rows, and groups of 4 pixels of each.
struct Region {
  std::uint32_t top, rows, first_group, groups;
};

/// Pixels as words: red, green and blue from the lowest byte on.
struct Group {
  std::uint32_t pixels[4];
};

/// @param kWhole whether all rows are whole groups, and so begin with a whole word
template <bool kWhole>
__device__ Group group_at(const std::uint8_t* tile, std::uint32_t side, std::uint32_t row,
                          std::uint32_t column) {
  const std::uint8_t* from = tile + 3 * (row * side + column);
  Group group{};
  if constexpr (kWhole) {
    const std::uint32_t a = loaded_word(from), b = loaded_word(from + 4), c = loaded_word(from + 8);
    group.pixels[0] = a & 0xFFFFFFU;
    group.pixels[1] = (a >> 24 | b << 8) & 0xFFFFFFU;
    group.pixels[2] = (b >> 16 | c << 16) & 0xFFFFFFU;
    group.pixels[3] = c >> 8;
  } else {
    for (std::uint32_t i = 0; i < 4 && column + i < side; ++i, from += 3)
      group.pixels[i] = from[0] | std::uint32_t{from[1]} << 8 | std::uint32_t{from[2]} << 16;
  }
  return group;
}

template <bool kWhole, typename Body>
__device__ void for_groups_of(const std::uint8_t* tile, std::uint32_t side, const Region& region,
                              const Thread& thread, const Body& body) {
  constexpr std::uint32_t kAtOnce = 4;  // loads under way together
  Steps at(thread.index, thread.of, region.groups);
  const std::uint32_t count = region.rows * region.groups;
  for (std::uint32_t first = thread.index; first < count; first += kAtOnce * thread.of) {
    Group groups[kAtOnce] = {};
    std::uint32_t row[kAtOnce], column[kAtOnce];
#pragma unroll
    for (std::uint32_t i = 0; i < kAtOnce; ++i, at.next()) {
      row[i] = region.top + at.row;
      column[i] = 4 * (region.first_group + at.column);
      if (first + i * thread.of < count)
        groups[i] = group_at<kWhole>(tile, side, row[i], column[i]);
    }
#pragma unroll
    for (std::uint32_t i = 0; i < kAtOnce; ++i) {
      if (first + i * thread.of < count) body(row[i], column[i], groups[i]);
    }
  }
}

/// body(row, column, group) for this thread's groups; what of a group is beyond the tile is black.
template <typename Body>
__device__ void for_groups(const std::uint8_t* tile, std::uint32_t side, const Region& region,
                           const Thread& thread, const Body& body) {
  if (side % 4 == 0) {
    for_groups_of<true>(tile, side, region, thread, body);
  } else {
    for_groups_of<false>(tile, side, region, thread, body);
  }
}

/// A layout in memory: kAcross x kDown pixels, row by row, are the channels of a position, filled
/// up with zeros. Positions of one pixel are written value by value, all others in whole stores.
template <typename T, std::uint32_t kAcross_, std::uint32_t kDown_>
struct Position {
  using Value = T;
  static constexpr std::uint32_t kAcross = kAcross_, kDown = kDown_, kPixels = kAcross * kDown;
  static constexpr std::uint32_t kChannels = (3 * kPixels + 7) / 8 * 8;
  static constexpr std::uint32_t kValuesAtOnce = 16 / sizeof(T);
  static constexpr std::uint32_t kStores = kChannels / kValuesAtOnce;

  /// Positions in a row of a tile's.
  __device__ static std::uint32_t across(const Format& format) {
    return kDown == 1 ? format.side_px / kAcross : format.blocks.side;
  }
};

/// body(Position) of the format's layout.
template <typename T, typename Body>
void for_layout(const Format& format, const Body& body) {
  constexpr std::uint32_t kGroup = 8;
  switch (format.blocks.block_px) {
    case 2:
      return body(Position<T, 2, 2>());
    case 4:
      return body(Position<T, 4, 4>());
    default:
      if (format.side_px % kGroup == 0) return body(Position<T, kGroup, 1>());
      return body(Position<T, 1, 1>());
  }
}

/// Stored by one instruction. May alias any type's memory.
struct __attribute__((may_alias, aligned(16))) Store {
  std::uint32_t words[4];
};

__device__ inline Store packed(const float (&values)[4]) {
  Store store;
  memcpy(&store, values, sizeof store);
  return store;
}

__device__ inline Store packed(const float (&values)[8]) {
  Store store;
#pragma unroll
  for (std::uint32_t i = 0; i < 4; ++i) {
    const __nv_bfloat162 pair = __floats2bfloat162_rn(values[2 * i], values[2 * i + 1]);
    memcpy(&store.words[i], &pair, sizeof pair);
  }
  return store;
}

/// Rows of a tile's positions that a block takes at once.
struct Strip {
  static constexpr std::uint32_t kPixels = 32;

  std::uint32_t first = 0, last = 0;        ///< positions
  std::uint32_t first_px = 0, last_px = 0;  ///< their rows that lie in the tile

  __host__ __device__ static std::uint32_t rows(const Format& format) {
    return kPixels / format.blocks.block_px;
  }
  __host__ __device__ static std::uint32_t count(const Format& format) {
    return (format.blocks.side + rows(format) - 1) / rows(format);
  }
  __device__ static Strip of(const Format& format, std::uint32_t index) {
    const std::uint32_t first = index * rows(format), last = first + rows(format);
    Strip strip;
    strip.first = first;
    strip.last = last < format.blocks.side ? last : format.blocks.side;
    strip.first_px = in_tile(format, strip.first);
    strip.last_px = in_tile(format, strip.last);
    return strip;
  }

 private:
  __device__ static std::uint32_t in_tile(const Format& format, std::uint32_t position) {
    const InputBlocks& blocks = format.blocks;
    const std::uint32_t pixel = position * blocks.block_px;
    const std::uint32_t inside = pixel > blocks.before_px ? pixel - blocks.before_px : 0;
    return inside < format.side_px ? inside : format.side_px;
  }
};

/// Words of a row of pixels in shared memory that groups are stored to at once: whole groups, and
/// one more, so that rows begin in different banks.
__host__ __device__ inline std::uint32_t pitch_of_groups(std::uint32_t groups) {
  return 4 * groups + 4;
}

__host__ __device__ inline std::uint32_t groups_of(std::uint32_t pixels) {
  return (pixels + 3) / 4;
}

}  // namespace quadrat::gpu
