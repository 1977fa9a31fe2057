#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "quadrat/base/bf16.h"
#include "quadrat/gpu/augment.h"
#include "quadrat/tiles/augment_arithmetic.h"

/// What one block of the augmentation's kernel does with its tile, a thread at a time. The kernel
/// adds the barriers; a test on the CPU runs thread after thread instead.

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
        pixels_(format.side_px * format.side_px),
        thread_(thread),
        threads_(threads),
        scale_(augment::crop_scale(static_cast<float>(format.side_px))),
        walk_(augment::walk_of(sample.draw.symmetry, format.side_px)) {}

  /// Of a crop: the grey of this thread's pixels, added up one after the other. The order of the
  /// whole sum: pixels thread, thread + threads, ... in float32; then threads pairwise in float64,
  /// the upper half onto the lower until one is left (add_pairwise).
  QUADRAT_HOST_DEVICE float grey() const {
    float sum = 0;
    for (std::uint32_t i = thread_; i < pixels_; i += threads_) {
      sum += augment::grey_of(cropped(i / side_, i % side_));
    }
    return sum;
  }

  /// @param mean_grey of the crop; of no use without one @param out [side, side, 3], the tile's
  template <typename T>
  QUADRAT_HOST_DEVICE void write(float mean_grey, T* out) const {
    constexpr std::uint32_t kValues = 3 * kPixelsAtOnce;
    for (std::uint32_t first = thread_ * kPixelsAtOnce; first < pixels_;
         first += threads_ * kPixelsAtOnce) {
      alignas(16) T values[kValues] = {};
      std::uint32_t y = first / side_, x = first % side_;
      const std::uint32_t here = pixels_ - first < kPixelsAtOnce ? pixels_ - first : kPixelsAtOnce;
      for (std::uint32_t i = 0; i < kPixelsAtOnce; ++i) {  // unrolled: `values` are registers
        if (i >= here) break;
        const augment::Rgb pixel = finished(mean_grey, y, x);
        values[3 * i] = rounded_to<T>(pixel.r);
        values[3 * i + 1] = rounded_to<T>(pixel.g);
        values[3 * i + 2] = rounded_to<T>(pixel.b);
        if (++x == side_) {
          x = 0;
          ++y;
        }
      }
      store(values, here, out + std::size_t{3} * first);
    }
  }

 private:
  /// Stored by one instruction. May alias any type's memory.
  struct __attribute__((may_alias, aligned(16))) Chunk {
    std::uint32_t words[4];
  };

  template <typename T>
  QUADRAT_HOST_DEVICE void store(const T* values, std::uint32_t here, T* out) const {
    // A tile of a whole number of groups begins on a 16-byte boundary, as all its groups do.
    if (pixels_ % kPixelsAtOnce == 0) {
      for (std::size_t i = 0; i < 3 * kPixelsAtOnce * sizeof(T) / sizeof(Chunk); ++i) {
        Chunk chunk;
        memcpy(&chunk, reinterpret_cast<const char*>(values) + i * sizeof chunk, sizeof chunk);
        reinterpret_cast<Chunk*>(out)[i] = chunk;
      }
    } else {
      for (std::uint32_t i = 0; i < 3 * here; ++i) out[i] = values[i];
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

  QUADRAT_HOST_DEVICE augment::Rgb finished(float mean_grey, std::uint32_t y,
                                            std::uint32_t x) const {
    if (!sample_.draw.crops) {
      const std::uint8_t* pixel =
          sample_.rgb + 3 * (walk_.start + x * walk_.column_step + y * walk_.row_step);
      return {lookup_[pixel[0] * 3], lookup_[pixel[1] * 3 + 1], lookup_[pixel[2] * 3 + 2]};
    }
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
  std::uint32_t side_, pixels_, thread_, threads_;
  float scale_;
  augment::Walk walk_;
};

/// One thread's part of a round of the pairwise sum: rounds run with `half` = threads / 2,
/// threads / 4, ..., 1, a barrier between them, and leave the sum in sums[0].
QUADRAT_HOST_DEVICE inline void add_pairwise(double* sums, std::uint32_t thread,
                                             std::uint32_t half) {
  if (thread < half) sums[thread] += sums[thread + half];
}

}  // namespace quadrat::gpu
