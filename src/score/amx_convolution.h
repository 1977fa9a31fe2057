#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "quadrat/base/aligned_bytes.h"

namespace quadrat::score {

/// Convolution of bf16 or bytes by the tile registers of AMX: sums of 16 outputs x 16 channels take
/// a product of 64 bytes of inputs a row with as many of weights a column.
///
/// Some rows of a map at a time are copied to planes of 64 bytes of channels a pixel, one for each
/// phase of the stride, with zeros around the map; the end of a row serves as the beginning of the
/// next. In there what 16 neighbouring outputs look at lies at a fixed distance, whatever the
/// kernel, the stride and the width; outputs that fall between rows are computed and left out. Of
/// maps of 3 channels, a plane's pixel holds all that its output looks at in one or more rows.
///
/// A map of 4 x 4 under a kernel of 3 x 3 of stride 2, with a padding of 1 (dots are zeros):
///
///     map        planes of phase                               outputs
///                (0, 0)      (0, 1)      (1, 0)      (1, 1)
///     a b c d    . . .       . . .       . b d       a c .       0 1 -
///     e f g h    . f h       e g .       . j l       i k .       2 3 -
///     i j k l    . n p       m o .       . . .       . . .
///     m n o p
///
/// What tap (y, x) of the kernel is multiplied with is in the plane of phase (y % 2, x % 2), from
/// row y / 2 and column x / 2 on: of tap (2, 1), e for output 0, g for 1, a dot for the one that is
/// left out, m for 2, o for 3.
///
/// Finishing sums (bias, addition, ReLU, rounding) takes about as long as multiplying, in other
/// parts of the processor: the two are interleaved.
///
/// Several threads may run it. What one tile becomes does not depend on the others.
class AmxConvolution {
 public:
  enum class Numbers { kBf16, kBytes };

  struct Shape {
    std::int64_t channels_in, channels_out;
    std::int64_t kernel, stride, padding;
    std::int64_t height, width;  ///< of the input
    std::int64_t out_height() const { return (height + 2 * padding - kernel) / stride + 1; }
    std::int64_t out_width() const { return (width + 2 * padding - kernel) / stride + 1; }
  };

  /// What bytes stand for: value = scale * (byte - zero_point).
  struct Meaning {
    float scale = 1;
    std::int32_t zero_point = 0;
  };

  /// Whether the processor has AMX and the channels fill its registers; 3 channels in will do.
  static bool is_supported(const Shape& shape);

  /// Of bf16. @param weight [channels_out, channels_in, kernel, kernel] @param bias [channels_out]
  AmxConvolution(const Shape& shape, const float* weight, const float* bias);

  /// Of bytes: maps are uint8. A zero point of `in` other than 0 is for maps of 3 channels.
  /// @param scales [channels_out], of the weights
  /// @param before what the addend's bytes mean
  AmxConvolution(const Shape& shape, const std::int8_t* weight, const float* scales,
                 const float* bias, Meaning in, Meaning before, Meaning out);

  const Shape& shape() const { return shape_; }
  std::int64_t value_bytes() const { return numbers_ == Numbers::kBytes ? 1 : 2; }

  /// @param in [count, height, width, channels_in]
  /// @param addend nothing, or what is added before the ReLU, of the output's shape; may be `out`
  /// @param out [count, out_height, out_width, channels_out]
  void run(const void* in, std::int64_t count, const void* addend, bool relu, void* out) const;

  /// Output rows `first` to before `last` of one map.
  /// @param out [last - first, out_width, channels_out]
  void run_rows(const void* in, std::int64_t first, std::int64_t last, bool relu, void* out) const;

 private:
  /// Some output rows of a map.
  struct Strip {
    const std::byte* in;  ///< the map's beginning
    std::int64_t first, rows;
    const std::byte* addend;  ///< of the first row, or nothing
    std::byte* out;           ///< likewise
  };

  AmxConvolution(const Shape& shape, Numbers numbers);
  template <typename Value, typename At>
  void lay_out(At weight_at);
  template <Numbers N>
  void run_strips(std::span<const Strip> strips, bool relu) const;
  void run_strips(std::span<const Strip> strips, bool relu) const;
  void spread(const Strip& strip, std::byte* planes) const;
  void spread_narrow(const Strip& strip, std::byte* planes) const;

  Shape shape_;
  Numbers numbers_;
  std::int64_t taps_;              ///< a side, of the kernel as it is in one phase
  bool is_narrow_;                 ///< of 3 channels
  std::int64_t rows_a_pixel_ = 1;  ///< of the kernel, in a narrow plane's pixel
  std::int64_t pixel_bytes_;       ///< of a plane
  std::int64_t pitch_;             ///< pixels from row to row of a plane
  std::int64_t plane_bytes_;
  std::int64_t planes_;
  std::int64_t strip_rows_;             ///< the most output rows of a strip
  std::vector<std::int32_t> places_;    ///< a position each: which pixel of the output, -1 for none
  std::vector<std::int64_t> offsets_;   ///< a step each: where in the planes its inputs are
  AlignedBytes weights_;                ///< [channels_out / 32, steps, 2, 1024]
  std::vector<float> scales_, biases_;  ///< of sums, [channels_out]
  float addend_scale_ = 1, addend_zero_point_ = 0;
  float out_zero_point_ = 0;
  std::uint8_t padding_ = 0;  ///< the byte that means zero in the input
};

}  // namespace quadrat::score
