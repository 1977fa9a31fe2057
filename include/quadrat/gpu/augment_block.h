#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "quadrat/base/bf16.h"
#include "quadrat/gpu/augment.h"
#include "quadrat/tiles/augment_arithmetic.h"

/// What one block of the augmentation's kernels does with its tile, a thread at a time. The kernels
/// add the barriers; a test on the CPU runs thread after thread instead.

namespace quadrat::gpu {

struct Bf16 {
  std::uint16_t bits;
};

template <typename T>
QUADRAT_HOST_DEVICE T rounded_to(float value);

template <>
QUADRAT_HOST_DEVICE inline float rounded_to<float>(float value) {
  return value;
}

template <>
QUADRAT_HOST_DEVICE inline Bf16 rounded_to<Bf16>(float value) {
  return {bf16::narrow(value)};
}

/// Pixels a thread writes at once: their 24 values are whole 16-byte stores in bf16 and in float32.
inline constexpr std::uint32_t kPixelsAtOnce = 8;

/// Rows of a tile's positions that a block takes where nothing crops. What they are made of, rows
/// or columns of the tile, is read into the block's shared memory first: a transposed tile would be
/// read a byte at a time otherwise.
struct Strip {
  static constexpr std::uint32_t kPixels = 32;

  std::uint32_t first = 0, last = 0;  ///< positions

  QUADRAT_HOST_DEVICE static std::uint32_t rows(const Format& format) {
    return kPixels / format.blocks.block_px;
  }
  QUADRAT_HOST_DEVICE static std::uint32_t count(const Format& format) {
    return (format.blocks.side + rows(format) - 1) / rows(format);
  }
  QUADRAT_HOST_DEVICE static Strip of(const Format& format, std::uint32_t index) {
    const std::uint32_t first = index * rows(format), last = first + rows(format);
    return {first, last < format.blocks.side ? last : format.blocks.side};
  }

  /// Words of a row of so many pixels, whatever byte of a word it begins at; odd, so that a column
  /// lies in different banks of shared memory.
  QUADRAT_HOST_DEVICE static std::uint32_t pitch_words(std::uint32_t pixels) {
    return (3 * pixels + 3 + 3) / 4 | 1U;
  }
  static std::uint32_t shared_words(const Format& format) {
    const std::uint32_t rows = kPixels * pitch_words(format.side_px);
    const std::uint32_t columns = format.side_px * pitch_words(kPixels);
    return rows > columns ? rows : columns;
  }
};

/// A thread's part of a tile's work.
class AugmentThread {
 public:
  /// @param lookup Format::lookup, or a copy of it in the block's shared memory
  QUADRAT_HOST_DEVICE AugmentThread(const Sample& sample, const Format& format, const float* lookup,
                                    std::uint32_t thread, std::uint32_t threads)
      : sample_(sample),
        format_(format),
        lookup_(lookup),
        side_(format.side_px),
        thread_(thread),
        threads_(threads),
        scale_(augment::crop_scale(static_cast<float>(format.side_px))) {}

  /// Of a crop: the grey of this thread's pixels, added up one after the other. The order of the
  /// whole sum: pixels thread, thread + threads, ... in float32; then threads pairwise in float64,
  /// the upper half onto the lower until one is left (add_pairwise).
  QUADRAT_HOST_DEVICE float grey() const {
    float sum = 0;
    for (std::uint32_t i = thread_; i < side_ * side_; i += threads_) {
      sum += augment::grey_of(cropped(i / side_, i % side_));
    }
    return sum;
  }

  /// A whole tile that is cropped. @param out the tile's positions
  template <typename T>
  QUADRAT_HOST_DEVICE void write_crop(float mean_grey, T* out) const {
    const auto pixel = [&](std::uint32_t y, std::uint32_t x) { return jittered(mean_grey, y, x); };
    write_positions(0, format_.blocks.side, pixel, out);
  }

  /// Of a tile that is not cropped: what the strip is made of, into shared memory.
  QUADRAT_HOST_DEVICE void load(const Strip& strip, std::uint32_t* shared) const {
    const Region region = region_of(strip);
    const std::uint8_t* tile = sample_.rgb + std::size_t{3} * side_ * region.top;
    const std::uint32_t end = 3 * side_;
    const bool in_words = end % sizeof(std::uint32_t) == 0;  // then every row begins with one
    for (std::uint32_t i = thread_; i < region.rows * region.words; i += threads_) {
      const std::uint32_t row = i / region.words, word = i % region.words;
      const std::uint32_t at = region.first_byte + 4 * word;
      const std::uint8_t* from = tile + std::size_t{row} * end + at;
      std::uint32_t value = 0;
      if (in_words) {
        value = *reinterpret_cast<const Word*>(from);
      } else {
        for (std::uint32_t byte = 0; byte < 4 && at + byte < end; ++byte)
          value |= static_cast<std::uint32_t>(from[byte]) << (8 * byte);
      }
      shared[row * region.pitch_words + word] = value;
    }
  }

  /// The strip's positions, once all of the block's threads have loaded. @param out the tile's
  template <typename T>
  QUADRAT_HOST_DEVICE void write(const Strip& strip, const std::uint32_t* shared, T* out) const {
    const Region region = region_of(strip);
    const auto* bytes = reinterpret_cast<const std::uint8_t*>(shared);
    const bool transposes = (sample_.draw.symmetry & 4U) != 0;
    const bool mirrors_columns = (sample_.draw.symmetry & 1U) != 0;
    const bool mirrors_rows = (sample_.draw.symmetry & 2U) != 0;
    const auto pixel = [&](std::uint32_t y, std::uint32_t x) {
      std::uint32_t row = transposes ? x : y, column = transposes ? y : x;
      if (mirrors_rows) row = side_ - 1 - row;
      if (mirrors_columns) column = side_ - 1 - column;
      const std::uint8_t* rgb =
          bytes + 4 * (row - region.top) * region.pitch_words + 3 * column - region.first_byte;
      return augment::Rgb{lookup_[rgb[0] * 3], lookup_[rgb[1] * 3 + 1], lookup_[rgb[2] * 3 + 2]};
    };
    write_positions(strip.first, strip.last, pixel, out);
  }

 private:
  /// Stored by one instruction. May alias any type's memory.
  struct __attribute__((may_alias, aligned(16))) Chunk {
    std::uint32_t words[4];
  };
  using Word __attribute__((may_alias)) = std::uint32_t;

  /// What of the tile a strip is made of: whole rows or, transposed, parts of all rows.
  struct Region {
    std::uint32_t top, rows, first_byte, words, pitch_words;
  };

  QUADRAT_HOST_DEVICE Region region_of(const Strip& strip) const {
    const InputBlocks& blocks = format_.blocks;
    const auto pixel_of = [&](std::uint32_t position) {
      const std::uint32_t pixel = position * blocks.block_px;
      const std::uint32_t inside = pixel > blocks.before_px ? pixel - blocks.before_px : 0;
      return inside < side_ ? inside : side_;
    };
    std::uint32_t first = pixel_of(strip.first), last = pixel_of(strip.last);
    const bool transposes = (sample_.draw.symmetry & 4U) != 0;
    if ((sample_.draw.symmetry & (transposes ? 1U : 2U)) != 0) {
      const std::uint32_t mirrored = side_ - last;
      last = side_ - first;
      first = mirrored;
    }
    if (!transposes)
      return {first, last - first, 0, (3 * side_ + 3) / 4, Strip::pitch_words(side_)};
    const std::uint32_t first_byte = 3 * first / 4 * 4;
    return {0, side_, first_byte, (3 * last - first_byte + 3) / 4,
            Strip::pitch_words(Strip::kPixels)};
  }

  /// @param pixel_at (y, x) -> Rgb, of a pixel of the tile
  template <typename T, typename PixelAt>
  QUADRAT_HOST_DEVICE void write_positions(std::uint32_t first, std::uint32_t last,
                                           const PixelAt& pixel_at, T* out) const {
    switch (format_.blocks.block_px) {
      case 2:
        return write_blocks<2>(first, last, pixel_at, out);
      case 4:
        return write_blocks<4>(first, last, pixel_at, out);
      default:
        return write_pixels(first, last, pixel_at, out);
    }
  }

  template <std::uint32_t kBlock, typename T, typename PixelAt>
  QUADRAT_HOST_DEVICE void write_blocks(std::uint32_t first, std::uint32_t last,
                                        const PixelAt& pixel_at, T* out) const {
    constexpr std::uint32_t kChannels = (3 * kBlock * kBlock + 7) / 8 * 8;
    const std::uint32_t across = format_.blocks.side, before = format_.blocks.before_px;
    for (std::uint32_t i = first * across + thread_; i < last * across; i += threads_) {
      const std::uint32_t top = i / across * kBlock - before, left = i % across * kBlock - before;
      alignas(16) T values[kChannels] = {};  // zero is bits of zeros in both types
      QUADRAT_UNROLL
      for (std::uint32_t k = 0; k < kBlock * kBlock; ++k) {
        // Wraps where it is before the first row or column: then it is no less than the side.
        const std::uint32_t y = top + k / kBlock, x = left + k % kBlock;
        if (y >= side_ || x >= side_) continue;
        const augment::Rgb pixel = pixel_at(y, x);
        values[3 * k] = rounded_to<T>(pixel.r);
        values[3 * k + 1] = rounded_to<T>(pixel.g);
        values[3 * k + 2] = rounded_to<T>(pixel.b);
      }
      store<kChannels>(values, out + std::size_t{kChannels} * i);
    }
  }

  template <typename T, typename PixelAt>
  QUADRAT_HOST_DEVICE void write_pixels(std::uint32_t first, std::uint32_t last,
                                        const PixelAt& pixel_at, T* out) const {
    constexpr std::uint32_t kValues = 3 * kPixelsAtOnce;
    const std::uint32_t end = last * side_;
    for (std::uint32_t at = first * side_ + thread_ * kPixelsAtOnce; at < end;
         at += threads_ * kPixelsAtOnce) {
      alignas(16) T values[kValues] = {};
      std::uint32_t y = at / side_, x = at % side_;
      const std::uint32_t here = end - at < kPixelsAtOnce ? end - at : kPixelsAtOnce;
      QUADRAT_UNROLL
      for (std::uint32_t i = 0; i < kPixelsAtOnce; ++i) {
        if (i >= here) continue;
        const augment::Rgb pixel = pixel_at(y, x);
        values[3 * i] = rounded_to<T>(pixel.r);
        values[3 * i + 1] = rounded_to<T>(pixel.g);
        values[3 * i + 2] = rounded_to<T>(pixel.b);
        if (++x == side_) {
          x = 0;
          ++y;
        }
      }
      // Where rows are whole groups, so are strips, and all groups begin on a 16-byte boundary.
      if (side_ % kPixelsAtOnce == 0) {
        store<kValues>(values, out + std::size_t{3} * at);
      } else {
        for (std::uint32_t i = 0; i < 3 * here; ++i) out[std::size_t{3} * at + i] = values[i];
      }
    }
  }

  template <std::uint32_t kCount, typename T>
  QUADRAT_HOST_DEVICE static void store(const T* values, T* out) {
    QUADRAT_UNROLL
    for (std::uint32_t i = 0; i < kCount * sizeof(T) / sizeof(Chunk); ++i) {
      Chunk chunk;
      memcpy(&chunk, reinterpret_cast<const char*>(values) + i * sizeof chunk, sizeof chunk);
      reinterpret_cast<Chunk*>(out)[i] = chunk;
    }
  }

  QUADRAT_HOST_DEVICE augment::Rgb cropped(std::uint32_t y, std::uint32_t x) const {
    const AugmentDraw& draw = sample_.draw;
    const augment::Tap row = augment::tap_of(draw.top_px, scale_, y, side_);
    const augment::Tap column =
        augment::tap_of(draw.left_px, scale_, draw.mirrors ? side_ - 1 - x : x, side_);
    const std::size_t pitch = std::size_t{3} * side_;
    return augment::cropped(sample_.rgb + pitch * row.low, sample_.rgb + pitch * row.high, row,
                            column, draw.brightness);
  }

  QUADRAT_HOST_DEVICE augment::Rgb jittered(float mean_grey, std::uint32_t y,
                                            std::uint32_t x) const {
    const augment::Rgb pixel = cropped(y, x);
    const float grey = augment::grey_of(pixel);
    const auto value = [&](float of_channel, float mean, float std) {
      return augment::normalised(augment::jittered(of_channel, grey, mean_grey, sample_.draw), mean,
                                 std);
    };
    return {value(pixel.r, format_.mean.r, format_.std.r),
            value(pixel.g, format_.mean.g, format_.std.g),
            value(pixel.b, format_.mean.b, format_.std.b)};
  }

  const Sample& sample_;
  const Format& format_;
  const float* lookup_;
  std::uint32_t side_, thread_, threads_;
  float scale_;
};

/// One thread's part of a round of the pairwise sum: rounds run with `half` = threads / 2,
/// threads / 4, ..., 1, a barrier between them, and leave the sum in sums[0].
QUADRAT_HOST_DEVICE inline void add_pairwise(double* sums, std::uint32_t thread,
                                             std::uint32_t half) {
  if (thread < half) sums[thread] += sums[thread + half];
}

}  // namespace quadrat::gpu
