#pragma once

#include "augment_block.h"

namespace quadrat::gpu {

/// A thread's part of a tile that is cropped and jittered, one block for all of it: its mean grey
/// has to be known before its first pixel is finished. The kernel adds the barriers.
class CropThread {
 public:
  /// The source pixel low, and the next one with this weight. At the tile's edge that is 0, and
  /// whatever word lies in memory there is read: three bytes, 0 times which is 0.
  struct Tap {
    std::uint32_t low;
    float weight;
  };

  /// What the block's threads share.
  class Shared {
   public:
    /// @param words words(format) of them
    __device__ Shared(std::uint32_t* words, std::uint32_t side)
        : rows(reinterpret_cast<Tap*>(words)),
          columns(rows + side),
          pixels(words + 4 * std::size_t{side}),
          row_weights(reinterpret_cast<float*>(pixels)),
          column_weights(row_weights + side) {}

    static std::uint32_t words(const Format& format) {
      // A strip of a crop is made of fewer rows than it has.
      return 4 * format.side_px + Strip::kPixels * pitch_of_groups(groups_of(format.side_px));
    }

    Tap* rows;              ///< of each row of the output
    Tap* columns;           ///< of each column of the output
    std::uint32_t* pixels;  ///< of a strip
    float* row_weights;     ///< of the source's rows in the output, summed; where pixels will be
    float* column_weights;
  };

  __device__ CropThread(const Sample& sample, const Format& format, const Thread& thread)
      : sample_(sample),
        format_(format),
        side_(format.side_px),
        thread_(thread),
        scale_(augment::crop_scale(static_cast<float>(format.side_px))),
        region_(region_of(sample.draw)),
        pitch_(pitch_of_groups(region_.groups)) {}

  /// The first step: tables of taps and weights.
  __device__ void make_tables(const Shared& shared) const {
    const AugmentDraw& draw = sample_.draw;
    // A row's last group may end beyond the tile, where weights are 0.
    for (std::uint32_t i = thread_.index; i < 4 * groups_of(side_); i += thread_.of) {
      shared.column_weights[i] = weight_of(draw.left_px, i);
      if (i >= side_) continue;
      const augment::Tap row = tap_of(draw.top_px, i);
      const augment::Tap column = tap_of(draw.left_px, draw.mirrors ? side_ - 1 - i : i);
      shared.rows[i] = {row.low, row.weight};
      shared.columns[i] = {column.low, column.weight};
      shared.row_weights[i] = weight_of(draw.top_px, i);
    }
  }

  /// The second: the grey of this thread's pixels of the source, each as often as the crop shows
  /// it, added up one after the other. The order of the whole sum: pixels thread, thread + threads,
  /// ... in float32; then threads pairwise in float64, the upper half onto the lower until one is
  /// left (add_pairwise).
  __device__ float grey(const Shared& shared) const {
    float sum = 0;
    for_groups(sample_.rgb, side_, region_, thread_,
               [&](std::uint32_t row, std::uint32_t column, const Group& group) {
#pragma unroll
                 for (std::uint32_t i = 0; i < 4; ++i) {
                   const float weight = shared.row_weights[row] * shared.column_weights[column + i];
                   sum = augment::multiply_add(weight, augment::grey_of(rgb_of(group.pixels[i])),
                                               sum);
                 }
               });
    return sum;
  }

  /// Strip after strip: what it is made of,
  __device__ void load(const Strip& strip, const Shared& shared) const {
    const Region region = region_of(strip, shared);
    for_groups(sample_.rgb, side_, region, thread_,
               [&](std::uint32_t row, std::uint32_t column, const Group& group) {
                 std::uint32_t* to =
                     shared.pixels + (row - region.top) * pitch_ + column - 4 * region.first_group;
                 *reinterpret_cast<Store*>(to) = {
                     {group.pixels[0], group.pixels[1], group.pixels[2], group.pixels[3]}};
               });
  }

  /// and its positions. @param mean_grey of the crop @param out the tile's positions
  template <typename P>
  __device__ void write(const Strip& strip, const Shared& shared, float mean_grey,
                        typename P::Value* out) const {
    if constexpr (P::kPixels == 1) {
      write_pixels(strip, shared, mean_grey, out);
    } else {
      write_positions<P>(strip, shared, mean_grey, out);
    }
  }

 private:
  /// Pixels of a row of the source, blended along it.
  template <std::uint32_t kAcross>
  struct Line {
    augment::Rgb pixels[kAcross];
  };

  __device__ static augment::Rgb rgb_of(std::uint32_t word) {
    return {static_cast<float>(word & 0xFFU), static_cast<float>(word >> 8 & 0xFFU),
            static_cast<float>(word >> 16)};
  }

  __device__ augment::Tap tap_of(float origin, std::uint32_t i) const {
    return augment::tap_of(origin, scale_, i, side_);
  }

  __device__ Region region_of(const AugmentDraw& draw) const {
    const std::uint32_t top = tap_of(draw.top_px, 0).low;
    const std::uint32_t bottom = tap_of(draw.top_px, side_ - 1).high + 1;
    const std::uint32_t first = tap_of(draw.left_px, 0).low / 4;
    const std::uint32_t last = groups_of(tap_of(draw.left_px, side_ - 1).high + 1);
    return {top, bottom - top, first, last - first};
  }

  __device__ Region region_of(const Strip& strip, const Shared& shared) const {
    if (strip.first_px == strip.last_px) return {0, 0, region_.first_group, 1};
    const std::uint32_t top = shared.rows[strip.first_px].low;
    const std::uint32_t end = shared.rows[strip.last_px - 1].low + 2;
    return {top, (end < side_ ? end : side_) - top, region_.first_group, region_.groups};
  }

  /// Of a row of the source: where its first pixel would lie, of which only some are loaded.
  __device__ auto rows_of(const Strip& strip, const Shared& shared) const {
    const Region region = region_of(strip, shared);
    return [this, region, pixels = shared.pixels](std::uint32_t row) -> const std::uint32_t* {
      return pixels + (row - region.top) * pitch_ - 4 * region.first_group;
    };
  }

  /// How much of the output's rows or columns a source pixel is.
  __device__ float weight_of(float origin, std::uint32_t source) const {
    // Outputs between the pixel's neighbours, and one more for rounding and for each edge.
    constexpr float kMost = 2 / static_cast<float>(augment::kCropSide) + 3;
    const float first = (static_cast<float>(source) - 0.5F - origin) / scale_ - 0.5F - 1;
    const auto begin = static_cast<std::uint32_t>(first < 0 ? 0 : first);
    float sum = 0;
    for (std::uint32_t i = begin; i < side_ && static_cast<float>(i) < first + kMost; ++i) {
      const augment::Tap tap = tap_of(origin, i);
      if (tap.low == source) sum += 1 - tap.weight;
      if (tap.high == source) sum += tap.weight;
    }
    return sum;
  }

  /// @param columns the taps of the line's pixels
  template <std::uint32_t kAcross>
  __device__ Line<kAcross> line_of(const std::uint32_t* row, const Tap (&columns)[kAcross]) const {
    Line<kAcross> line;
#pragma unroll
    for (std::uint32_t i = 0; i < kAcross; ++i) {
      const augment::Rgb low = rgb_of(row[columns[i].low]);
      const augment::Rgb high = rgb_of(row[columns[i].low + 1]);
      line.pixels[i] = augment::blend(low, high, columns[i].weight);
    }
    return line;
  }

  __device__ augment::Rgb finished(const augment::Rgb& pixel, const augment::Jitter& jitter) const {
    const float grey = augment::grey_of(pixel);
    return {augment::normalised(augment::jittered(pixel.r, grey, jitter), format_.normal[0]),
            augment::normalised(augment::jittered(pixel.g, grey, jitter), format_.normal[1]),
            augment::normalised(augment::jittered(pixel.b, grey, jitter), format_.normal[2])};
  }

  template <typename P>
  __device__ void write_positions(const Strip& strip, const Shared& shared, float mean_grey,
                                  typename P::Value* out) const {
    constexpr std::uint32_t kAcross = P::kAcross, kDown = P::kDown;
    constexpr std::uint32_t kValues = P::kValuesAtOnce;
    const augment::Jitter jitter = augment::jitter_of(sample_.draw, mean_grey);
    const auto source_row = rows_of(strip, shared);
    const std::uint32_t across = P::across(format_);
    const std::uint32_t count = (strip.last - strip.first) * across;
    auto* to = reinterpret_cast<Store*>(out) + std::size_t{strip.first} * across * P::kStores;
    Steps position(thread_.index, thread_.of, across);
    for (std::uint32_t i = thread_.index; i < count; i += thread_.of, position.next()) {
      // Wraps where it is before the first row or column: then it is no less than the side.
      const std::uint32_t top = (strip.first + position.row) * kDown - format_.blocks.before_px;
      const std::uint32_t left = position.column * kAcross - format_.blocks.before_px;
      Tap columns[kAcross];
#pragma unroll
      for (std::uint32_t dx = 0; dx < kAcross; ++dx)
        columns[dx] = shared.columns[left + dx < side_ ? left + dx : 0];
      float values[P::kChannels];
#pragma unroll
      for (float& value : values) value = 0;
      // Rows of the output lie less than a row of the source apart: each asks for one more at most.
      Line<kAcross> low, high;
      std::uint32_t at = side_;
#pragma unroll
      for (std::uint32_t dy = 0; dy < kDown; ++dy) {
        if (top + dy < side_) {
          const Tap row = shared.rows[top + dy];
          const std::uint32_t* source = source_row(row.low);
          if (kDown == 1 || row.low != at) {
            low = kDown == 1 || at == side_ ? line_of(source, columns) : high;
            high = line_of(source + pitch_, columns);
            at = row.low;
          }
#pragma unroll
          for (std::uint32_t dx = 0; dx < kAcross; ++dx) {
            if (left + dx >= side_) continue;
            const augment::Rgb pixel =
                finished(augment::blend(low.pixels[dx], high.pixels[dx], row.weight), jitter);
            const std::uint32_t value = 3 * (dy * kAcross + dx);
            values[value] = pixel.r;
            values[value + 1] = pixel.g;
            values[value + 2] = pixel.b;
          }
        }
        // As soon as they are whole, so that few values wait in registers.
        const std::uint32_t done = 3 * kAcross * dy,
                            all = dy + 1 < kDown ? 3 * kAcross * (dy + 1) : P::kChannels;
#pragma unroll
        for (std::uint32_t store = 0; store < P::kStores; ++store) {
          const std::uint32_t end = (store + 1) * kValues;
          if (end <= done || end > all) continue;
          float whole[kValues];
#pragma unroll
          for (std::uint32_t k = 0; k < kValues; ++k) whole[k] = values[store * kValues + k];
          to[std::size_t{i} * P::kStores + store] = packed(whole);
        }
      }
    }
  }

  /// Where rows are no whole groups.
  template <typename T>
  __device__ void write_pixels(const Strip& strip, const Shared& shared, float mean_grey,
                               T* out) const {
    const augment::Jitter jitter = augment::jitter_of(sample_.draw, mean_grey);
    const auto source_row = rows_of(strip, shared);
    for (std::uint32_t i = strip.first * side_ + thread_.index; i < strip.last * side_;
         i += thread_.of) {
      const Tap row = shared.rows[i / side_], columns[1] = {shared.columns[i % side_]};
      const auto line = [&](std::uint32_t y) { return line_of(source_row(y), columns).pixels[0]; };
      const augment::Rgb pixel =
          finished(augment::blend(line(row.low), line(row.low + 1), row.weight), jitter);
      T* to = out + std::size_t{3} * i;
      to[0] = static_cast<T>(pixel.r);
      to[1] = static_cast<T>(pixel.g);
      to[2] = static_cast<T>(pixel.b);
    }
  }

  const Sample& sample_;
  const Format& format_;
  std::uint32_t side_;
  Thread thread_;
  float scale_;
  Region region_;  ///< of the crop
  std::uint32_t pitch_;
};

/// One thread's part of a round of the pairwise sum: rounds run with `half` = threads / 2,
/// threads / 4, ..., 1, a barrier between them, and leave the sum in sums[0].
__device__ inline void add_pairwise(double* sums, std::uint32_t thread, std::uint32_t half) {
  if (thread < half) sums[thread] += sums[thread + half];
}

}  // namespace quadrat::gpu
