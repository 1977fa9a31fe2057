#pragma once

#include <cstdint>

namespace quadrat::normalize {

/// bfloat16 as its bits.
using Bf16 = std::uint16_t;

/// What sums over T are taken in, and what scales are given in.
template <typename T>
struct Arithmetic {
  using Type = float;
};
template <>
struct Arithmetic<double> {
  using Type = double;
};
template <typename T>
using ArithmeticOf = typename Arithmetic<T>::Type;

/// Channels are taken in groups of this many: the kernels need a whole number of groups.
constexpr std::int64_t kChannelGroup = 64;

/// What a normalisation applied, for its gradient: y = x * scale + offset.
template <typename T>
struct Scaling {
  const ArithmeticOf<T>* mean;    ///< [channels]
  const ArithmeticOf<T>* scale;   ///< [channels], or null where no rectification is to be undone
  const ArithmeticOf<T>* offset;  ///< [channels], or null
};

/// The kernels for one element type: float, double or Bf16. They go over `rows` positions of a
/// channels-last map, so that x is [rows, channels], and are single-threaded: callers deal rows to
/// threads.
template <typename T>
struct Kernels {
  using A = ArithmeticOf<T>;

  /// Mean and sum of squared deviations of every channel. Blocks of rows are summed about their own
  /// first row and merged in float64, so that nothing cancels however far from 0 the mean is (Chan,
  /// Golub and LeVeque, 1979).
  /// @param mean, deviations [channels]
  void (*statistics)(const T* x, std::int64_t rows, std::int64_t channels, double* mean,
                     double* deviations);

  /// y = x * scale + offset (+ residual), then max(0, y) where `relu`.
  /// @param residual as x, or null; scale, offset [channels]
  void (*apply)(const T* x, const T* residual, bool relu, const A* scale, const A* offset,
                std::int64_t rows, std::int64_t channels, T* y);

  /// With g = dy, or 0 where y (if given) or else x * scale + offset (if given) is not positive:
  /// sum of g and of g * (x - mean), per channel, added to `sum_g` and `sum_gx`.
  /// @param g_out where g goes; only with y; may be dy
  void (*backward_sums)(const T* dy, const T* y, const T* x, const Scaling<T>& scaling,
                        std::int64_t rows, std::int64_t channels, T* g_out, double* sum_g,
                        double* sum_gx);

  /// dx = a * g + b * (x - mean) + c, with g as in backward_sums without y.
  /// @param a, b, c [channels]; dx may be dy
  void (*backward_input)(const T* dy, const T* x, const Scaling<T>& scaling, const A* a, const A* b,
                         const A* c, std::int64_t rows, std::int64_t channels, T* dx);

  /// Maximum over 3x3 windows, stride 2, padding 1, of max(0, x * scale + offset), for one image.
  /// @param x [height, width, channels]; y, place [pooled(height), pooled(width), channels]
  /// @param place which of the window's nine the maximum is, the first of several, or 255 where it
  /// is not positive
  void (*apply_pooled)(const T* x, const A* scale, const A* offset, std::int64_t height,
                       std::int64_t width, std::int64_t channels, T* y, std::uint8_t* place);

  /// Its gradient before scale and offset: g [height, width, channels] from dy and place as above.
  void (*backward_pooled)(const T* dy, const std::uint8_t* place, std::int64_t height,
                          std::int64_t width, std::int64_t channels, T* g);
};

/// The kernels for the vector registers this processor has.
template <typename T>
const Kernels<T>& kernels();

/// Side of what a 3x3 maximum with stride 2 and padding 1 makes of a side.
constexpr std::int64_t pooled(std::int64_t side) { return (side - 1) / 2 + 1; }

// One source, compiled for each generation of vector registers (normalize_kernels.h).
namespace avx512 {
template <typename T>
Kernels<T> kernels();
}
namespace avx2 {
template <typename T>
Kernels<T> kernels();
}
namespace baseline {
template <typename T>
Kernels<T> kernels();
}

}  // namespace quadrat::normalize
