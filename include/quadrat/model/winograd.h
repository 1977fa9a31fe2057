#pragma once

#include <cstdint>
#include <vector>

#include "quadrat/base/aligned_bytes.h"

namespace quadrat {

/// Channels last, one map after the other.
struct WinogradMaps {
  std::int64_t count, height, width;
};

/// Convolution with 3x3 or 5x5 kernels of stride 1 by Winograd's minimal filtering, on six points:
/// blocks of 4x4 (3x3 kernels) or 2x2 outputs (5x5) of all channels become 36 products of small
/// matrices, with 4 or 2.8 times fewer multiplications than the definition has (Lavin and Gray,
/// "Fast Algorithms for Convolutional Neural Networks", 2016). Computed in float32 whatever the
/// maps are stored in; results differ from the definition's by less than 1e-5 of their standard
/// deviation.
///
/// For x86-64 with AVX2 or AVX-512. Torch's threads share the maps; what one becomes does not depend on the
/// others, nor on which thread computes it.
class WinogradConvolution {
 public:
  /// Padding has to be (kernel - 1) / 2: outputs have the inputs' height and width.
  static bool is_supported(std::int64_t kernel, std::int64_t stride, std::int64_t padding,
                           std::int64_t channels_in, std::int64_t channels_out);

  /// Whether float32 by this algorithm is quicker than the definition in bf16 on this processor.
  /// Where it multiplies pairs of bf16, in the time of one float32, 3x3 kernels are as long as
  /// their points stay in the cache. With AMX, which callers ask for first, none is.
  static bool beats_bf16(std::int64_t kernel, std::int64_t channels_in, std::int64_t channels_out);

  /// @param weight [channels_out, kernel, kernel, channels_in]
  /// @param bias [channels_out]; null: none
  WinogradConvolution(const float* weight, const float* bias, std::int64_t channels_in,
                      std::int64_t channels_out, std::int64_t kernel);

  /// The convolution that makes the inputs' gradient of the outputs': from `channels_out` channels
  /// to `channels_in`, with the kernels turned round. Supported if one is with the two exchanged.
  static WinogradConvolution of_input_gradient(const float* weight, std::int64_t channels_in,
                                               std::int64_t channels_out, std::int64_t kernel);

  std::int64_t channels_out() const { return channels_out_; }

  /// @param in [count, height, width, channels_in]: float32, or bf16's bits
  /// @param addend nothing, or what is added before the ReLU, of the output's shape; may be `out`
  /// @param out [count, height, width, channels_out]
  template <typename T>
  void run(const T* in, WinogradMaps maps, const T* addend, bool relu, T* out) const;

 private:
  WinogradConvolution(std::int64_t channels_in, std::int64_t channels_out, std::int64_t kernel,
                      const float* bias);
  void transform(const float* weight, std::int64_t inputs, std::int64_t outputs,
                 std::int64_t kernel, bool is_turned);
  template <typename T>
  void run_on_this_thread(const T* in, WinogradMaps maps, const T* addend, bool relu, T* out) const;
  float* panel(std::int64_t point, std::int64_t channel_out, std::int64_t channel_in) const;

  std::int64_t channels_in_, channels_out_;
  std::int64_t block_;  ///< outputs a side: 4 or 2
  std::int64_t padding_;
  AlignedBytes weights_;  ///< float [36, channels_out / panel, channels_in, panel]
  std::vector<float> bias_;
};

/// The gradient of such a convolution's weights, by the same algorithm turned round: both maps go
/// to the 36 points, where blocks are summed as products of matrices, and the sums to the kernels'
/// taps. What it becomes depends on the number of maps, not on torch's threads, which share the
/// work.
class WinogradWeightGradient {
 public:
  /// The convolution has to be supported, and with its channels exchanged.
  WinogradWeightGradient(std::int64_t channels_in, std::int64_t channels_out, std::int64_t kernel)
      : channels_in_(channels_in), channels_out_(channels_out), kernel_(kernel) {}

  /// @param in [count, height, width, channels_in]: float32, or bf16's bits
  /// @param gradient of the outputs: [count, height, width, channels_out], of the same type
  /// @param out [channels_out, kernel, kernel, channels_in]
  template <typename T>
  void run(const T* in, const T* gradient, WinogradMaps maps, float* out) const;

 private:
  std::int64_t channels_in_, channels_out_, kernel_;
};

}  // namespace quadrat
