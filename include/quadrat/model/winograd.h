#pragma once

#include <cstdint>
#include <vector>

#include "quadrat/base/aligned_bytes.h"

namespace quadrat {

/// Channels last, one map after the other.
struct WinogradMaps {
  std::int64_t count, height, width;

  std::int64_t pixels() const { return count * height * width; }
};

/// A convolution with square kernels.
struct WinogradShape {
  std::int64_t channels_in, channels_out, kernel, stride, padding;

  /// Of maps that are no smaller, padded, than the kernel.
  WinogradMaps outputs_of(WinogradMaps maps) const {
    const auto side = [&](std::int64_t of) { return (of + 2 * padding - kernel) / stride + 1; };
    return {maps.count, side(maps.height), side(maps.width)};
  }
  /// Taps a side of the kernels that each of the stride x stride phases of the input has.
  std::int64_t taps() const { return (kernel + stride - 1) / stride; }
};

/// What a convolution's products are of.
enum class WinogradProducts {
  kFloat32,
  /// Integers of 14 and up to 16 bits, summed exactly: every block's points, and every output
  /// channel's weights at a point, are rounded in units of their own. Errors are about 1e-3 of the
  /// results' standard deviation; at the best, twice as many products in the same time.
  kInt16
};

/// Convolution by Winograd's minimal filtering on six points: blocks of 4x4 outputs of all
/// channels, where kernels are 3x3, become 36 products of small matrices, with 4 times fewer
/// multiplications than the definition has (Lavin and Gray, "Fast Algorithms for Convolutional
/// Neural Networks", 2016). Where the stride is larger than 1, pixels of the same remainder by it,
/// a phase of the input, are taken for a map of their own, and all phases for channels of one
/// convolution with kernels of fewer taps. Computed in float32 whatever the maps are stored in,
/// unless products are asked for in integers; results differ from the definition's by about 1e-5 of
/// their standard deviation at the most, where phases have 2x2 kernels by 3e-5.
///
/// For x86-64 with AVX2 or AVX-512. Torch's threads share the maps; what one becomes does not
/// depend on the others, nor on which thread computes it.
class WinogradConvolution {
 public:
  static bool is_supported(const WinogradShape& shape);

  /// Whether it is supported and quicker than the definition, for maps of that size in float32.
  static bool pays(const WinogradShape& shape, std::int64_t height, std::int64_t width,
                   WinogradProducts products = WinogradProducts::kFloat32);

  /// Whether it is also quicker than the definition in bf16, if it pays in float32. Where the
  /// processor multiplies pairs of bf16, in the time of one float32, 3x3 kernels of stride 1 are as
  /// long as their points stay in the cache. With AMX, which callers ask for first, none is.
  static bool beats_bf16(const WinogradShape& shape);

  /// @param weight [channels_out, kernel, kernel, channels_in]
  /// @param bias [channels_out]; null: none
  /// @param products kFloat32 is kept to where others would be no quicker
  WinogradConvolution(const WinogradShape& shape, const float* weight, const float* bias,
                      WinogradProducts products = WinogradProducts::kFloat32);

  /// The convolution that makes the inputs' gradient of the outputs' where the stride is 1: from
  /// `channels_out` channels to `channels_in`, with the kernels turned round. Supported if one is
  /// with the two exchanged.
  static WinogradConvolution of_input_gradient(const WinogradShape& shape, const float* weight);

  const WinogradShape& shape() const { return shape_; }

  /// @param in [count, height, width, channels_in]: float32, or bf16's bits
  /// @param addend nothing, or what is added before the ReLU, of the output's shape; may be `out`
  /// @param out [shape().outputs_of(maps), channels_out]
  template <typename T>
  void run(const T* in, WinogradMaps maps, const T* addend, bool relu, T* out) const;

 private:
  WinogradConvolution(const WinogradShape& shape, const float* bias);
  template <typename T>
  void run_on_this_thread(const T* in, WinogradMaps maps, const T* addend, bool relu, T* out) const;
  template <typename T>
  void run_blocks(const WinogradShape& shape, const T* in, WinogradMaps maps, const T* addend,
                  bool relu, T* out) const;
  struct Points;
  void multiply(std::int64_t point, std::int64_t rows, const Points& points, float* out) const;
  std::int64_t panel(std::int64_t point, std::int64_t channel_out, std::int64_t channel_in) const;
  float* weights(std::int64_t at) const { return reinterpret_cast<float*>(weights_.get()) + at; }
  void round_weights();

  WinogradShape shape_;
  std::int64_t channels_;  ///< of all phases
  WinogradProducts products_ = WinogradProducts::kFloat32;
  AlignedBytes weights_;       ///< float [36, channels_out / panel, channels, panel]
  AlignedBytes rounded_;       ///< or int16 [36, channels_out / panel, channels / 2, panel, 2]
  std::vector<float> scales_;  ///< and their units [36, channels_out]
  std::vector<float> bias_;
};

/// The gradient of such a convolution's weights, by the same algorithm turned round: both maps go
/// to the 36 points, where blocks are summed as products of matrices, and the sums to the kernels'
/// taps. What it becomes depends on the number of maps, not on torch's threads, which share the
/// work.
class WinogradWeightGradient {
 public:
  static bool is_supported(const WinogradShape& shape);

  explicit WinogradWeightGradient(const WinogradShape& shape) : shape_(shape) {}

  /// @param in [count, height, width, channels_in]: float32, or bf16's bits
  /// @param gradient of the outputs, of the same type
  /// @param out [channels_out, kernel, kernel, channels_in]
  template <typename T>
  void run(const T* in, const T* gradient, WinogradMaps maps, float* out) const;

 private:
  WinogradShape shape_;
};

}  // namespace quadrat
