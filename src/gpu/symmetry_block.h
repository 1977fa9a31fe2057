#pragma once

#include "augment_block.h"

namespace quadrat::gpu {

/// A thread's part of a tile that is not cropped, a strip of it a block. Between load and write the
/// kernel has a barrier.
class SymmetryThread {
 public:
  /// @param thread `of` a multiple of the stores of a position: a thread's are alike in each
  __device__ SymmetryThread(const Sample& sample, const Format& format, const Strip& strip,
                            const Thread& thread)
      : sample_(sample),
        format_(format),
        strip_(strip),
        side_(format.side_px),
        thread_(thread),
        transposes_((sample.draw.symmetry & 4U) != 0),
        mirrors_columns_((sample.draw.symmetry & 1U) != 0),
        mirrors_rows_((sample.draw.symmetry & 2U) != 0),
        region_(region_of(strip)),
        pitch_(transposes_ ? pitch_of_columns(side_) : pitch_of_groups(region_.groups)),
        origin_px_(strip.first_px) {
    // Whole groups of columns become rows: then there are some before and behind the strip's.
    if (transposes_) {
      const std::uint32_t first = 4 * region_.first_group, end = first + 4 * region_.groups;
      origin_px_ = mirrors_columns_ ? side_ - end : first;
    }
  }

  static std::uint32_t shared_words(const Format& format) {
    const std::uint32_t rows = Strip::kPixels * pitch_of_groups(groups_of(format.side_px));
    const std::uint32_t columns = 4 * (Strip::kPixels / 4 + 1) * pitch_of_columns(format.side_px);
    return rows > columns ? rows : columns;
  }

  /// The strip's pixels, [row - origin_px, pitch], from rows or columns of the tile.
  __device__ void load(std::uint32_t* pixels) const {
    if (transposes_) {
      const std::uint32_t next = mirrors_columns_ ? 0U - pitch_ : pitch_;
      for_groups(sample_.rgb, side_, region_, thread_,
                 [&](std::uint32_t row, std::uint32_t column, const Group& group) {
                   const std::uint32_t x = mirrors_rows_ ? side_ - 1 - row : row;
                   const std::uint32_t y = mirrors_columns_ ? side_ - 1 - column : column;
                   std::uint32_t at = (y - origin_px_) * pitch_ + x;
#pragma unroll
                   for (std::uint32_t i = 0; i < 4; ++i, at += next) pixels[at] = group.pixels[i];
                 });
      return;
    }
    for_groups(sample_.rgb, side_, region_, thread_,
               [&](std::uint32_t row, std::uint32_t column, const Group& group) {
                 const std::uint32_t y = mirrors_rows_ ? side_ - 1 - row : row;
                 std::uint32_t* to = pixels + (y - origin_px_) * pitch_;
                 const auto& [a, b, c, d] = group.pixels;
                 if (!mirrors_columns_) {
                   *reinterpret_cast<Store*>(to + column) = {{a, b, c, d}};
                 } else if (side_ % 4 == 0) {
                   *reinterpret_cast<Store*>(to + side_ - 4 - column) = {{d, c, b, a}};
                 } else {
                   for (std::uint32_t i = 0; i < 4 && column + i < side_; ++i)
                     to[side_ - 1 - column - i] = group.pixels[i];
                 }
               });
  }

  /// The strip's positions, once all of the block's threads have loaded. @param out the tile's
  template <typename P>
  __device__ void write(const std::uint32_t* pixels, typename P::Value* out) const {
    if constexpr (P::kPixels == 1) {
      write_pixels(pixels, out);
    } else {
      write_positions<P>(pixels, out);
    }
  }

 private:
  /// A thread writes the same 16 bytes of each of its positions, threads side by side whole lines.
  template <typename P>
  __device__ void write_positions(const std::uint32_t* pixels, typename P::Value* out) const {
    constexpr std::uint32_t kAcross = P::kAcross, kDown = P::kDown;
    constexpr std::uint32_t kValues = P::kValuesAtOnce, kNeeded = (kValues + 2 + 2) / 3;
    constexpr std::uint32_t kAll = (1U << kValues) - 1;
    // The store's first value, and the pixels that it takes values of.
    const std::uint32_t store = thread_.index % P::kStores, value = store * kValues;
    const std::uint32_t first = value / 3, phase = value % 3;
    std::uint32_t at[kNeeded];
    std::uint32_t exists = 0;  // a bit a value
#pragma unroll
    for (std::uint32_t i = 0; i < kNeeded; ++i) {
      const std::uint32_t k = first + i;
      at[i] = k < P::kPixels ? k / kAcross * pitch_ + k % kAcross : 0;
      if (k < P::kPixels) exists |= 7U << (3 * i);
    }
    exists = exists >> phase & kAll;
    augment::Normal normal[3];
#pragma unroll
    for (std::uint32_t i = 0; i < 3; ++i)
      normal[i] = phase == 0   ? format_.normal[i]
                  : phase == 1 ? format_.normal[(i + 1) % 3]
                               : format_.normal[(i + 2) % 3];

    const std::uint32_t across = P::across(format_);
    const std::uint32_t count = (strip_.last - strip_.first) * across;
    const std::uint32_t begin = thread_.index / P::kStores, step = thread_.of / P::kStores;
    auto* to = reinterpret_cast<Store*>(out) + (strip_.first * across + begin) * P::kStores + store;
    Steps position(begin, step, across);
    for (std::uint32_t i = begin; i < count; i += step, position.next(), to += step * P::kStores) {
      // Wraps where it is before the first row or column: then it is no less than the side.
      const std::uint32_t top = (strip_.first + position.row) * kDown - format_.blocks.before_px;
      const std::uint32_t left = position.column * kAcross - format_.blocks.before_px;
      const std::uint32_t base = (top - origin_px_) * pitch_ + left;
      std::uint32_t rgb[kNeeded], inside = exists;
      if (top <= side_ - kDown && left <= side_ - kAcross) {
#pragma unroll
        for (std::uint32_t k = 0; k < kNeeded; ++k) rgb[k] = pixels[base + at[k]];
      } else {
        std::uint32_t in_tile = 0;
#pragma unroll
        for (std::uint32_t k = 0; k < kNeeded; ++k) {
          const std::uint32_t y = top + (first + k) / kAcross, x = left + (first + k) % kAcross;
          const bool is_inside = first + k < P::kPixels && y < side_ && x < side_;
          rgb[k] = is_inside ? pixels[base + at[k]] : 0;
          if (is_inside) in_tile |= 7U << (3 * k);
        }
        inside = in_tile >> phase & kAll;
      }
      float values[kValues];
      normalise(rgb, phase, normal, values);
      if (inside != kAll) {
#pragma unroll
        for (std::uint32_t k = 0; k < kValues; ++k)
          values[k] = (inside >> k & 1U) != 0 ? values[k] : 0;
      }
      *to = packed(values);
    }
  }

  /// The bytes of the pixels, one after the other from byte `phase` on.
  template <std::uint32_t kNeeded, std::uint32_t kValues>
  __device__ static void normalise(const std::uint32_t (&rgb)[kNeeded], std::uint32_t phase,
                                   const augment::Normal (&normal)[3], float (&values)[kValues]) {
    constexpr std::uint32_t kWords = (3 * kNeeded + 3) / 4;
    std::uint32_t bytes[kWords + 1] = {};
#pragma unroll
    for (std::uint32_t i = 0; i < kNeeded; ++i) {
      const std::uint32_t bit = 24 * i, word = bit / 32, shift = bit % 32;
      bytes[word] |= rgb[i] << shift;
      if (shift > 8) bytes[word + 1] |= rgb[i] >> (32 - shift);
    }
#pragma unroll
    for (std::uint32_t i = 0; i < kValues / 4; ++i) {
      const auto four =
          static_cast<std::uint32_t>((std::uint64_t{bytes[i + 1]} << 32 | bytes[i]) >> (8 * phase));
#pragma unroll
      for (std::uint32_t k = 0; k < 4; ++k) {
        values[4 * i + k] = augment::normalised(static_cast<float>(four >> (8 * k) & 0xFFU),
                                                normal[(4 * i + k) % 3]);
      }
    }
  }

  /// Where rows are no whole groups.
  template <typename T>
  __device__ void write_pixels(const std::uint32_t* pixels, T* out) const {
    for (std::uint32_t i = strip_.first * side_ + thread_.index; i < strip_.last * side_;
         i += thread_.of) {
      const std::uint32_t rgb = pixels[(i / side_ - origin_px_) * pitch_ + i % side_];
      for (std::uint32_t c = 0; c < 3; ++c) {
        out[std::size_t{3} * i + c] = static_cast<T>(
            augment::normalised(static_cast<float>(rgb >> (8 * c) & 0xFFU), format_.normal[c]));
      }
    }
  }

  /// Odd, so that a column's pixels lie in different banks of shared memory.
  __host__ __device__ static std::uint32_t pitch_of_columns(std::uint32_t side) {
    return side | 1U;
  }

  __device__ Region region_of(const Strip& strip) const {
    if (strip.first_px == strip.last_px) return {0, 0, 0, 1};  // all of it is padding
    std::uint32_t first = strip.first_px, last = strip.last_px;
    if (transposes_ ? mirrors_columns_ : mirrors_rows_) {
      first = side_ - strip.last_px;
      last = side_ - strip.first_px;
    }
    if (transposes_) return {0, side_, first / 4, groups_of(last) - first / 4};
    return {first, last - first, 0, groups_of(side_)};
  }

  const Sample& sample_;
  const Format& format_;
  Strip strip_;
  std::uint32_t side_;
  Thread thread_;
  bool transposes_, mirrors_columns_, mirrors_rows_;
  Region region_;
  std::uint32_t pitch_, origin_px_;
};

}  // namespace quadrat::gpu
