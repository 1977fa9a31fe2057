#include "quadrat/model/winograd.h"

#include <ATen/Parallel.h>

#include <algorithm>
#include <array>

#include "quadrat/base/cpu.h"
#include "winograd_kernels.h"

namespace quadrat {

using namespace winograd;

namespace {

constexpr std::int64_t kMostBlocks = 48;  // between the transforms; more leave the cache

#if QUADRAT_WINOGRAD

/// The kernels of 16 channels and one other to the 36 points, along both axes.
/// @param taps the first kernel's first tap, `step_tap` from the next one
/// @param step from channel to channel: 1 or more @param points `plane` apart
template <int Kernel>
QUADRAT_AVX512_FUNCTION void transform_kernels(const float* taps, std::int64_t step_tap,
                                               std::int64_t step, float* points,
                                               std::int64_t plane) {
  static constexpr auto rows = kernel_transform(Kernel);
  const __m512i lanes =
      _mm512_mullo_epi32(_mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15),
                         _mm512_set1_epi32(static_cast<int>(step)));
  __m512 half[kPatch][Kernel];
  for (auto& row : half) {
    for (__m512& value : row) value = _mm512_setzero_ps();
  }
  for (std::size_t y = 0; y < Kernel; ++y) {
    for (std::size_t x = 0; x < Kernel; ++x, taps += step_tap) {
      const __m512 values =
          step == 1 ? load(taps) : _mm512_i32gather_ps(lanes, taps, sizeof(float));
      for (std::size_t i = 0; i < kPatch; ++i)
        half[i][x] = _mm512_fmadd_ps(all(rows[i][y]), values, half[i][x]);
    }
  }
  for (const auto& row : half) {
    for (std::size_t j = 0; j < kPatch; ++j, points += plane) {
      __m512 value = _mm512_mul_ps(all(rows[j][0]), row[0]);
      for (std::size_t x = 1; x < Kernel; ++x)
        value = _mm512_fmadd_ps(all(rows[j][x]), row[x], value);
      _mm512_store_ps(points, value);
    }
  }
}

#endif  // QUADRAT_WINOGRAD

}  // namespace

bool WinogradConvolution::is_supported(std::int64_t kernel, std::int64_t stride,
                                       std::int64_t padding, std::int64_t channels_in,
                                       std::int64_t channels_out) {
  return QUADRAT_WINOGRAD != 0 && cpu_features().avx512 && (kernel == 3 || kernel == 5) &&
         stride == 1 && padding == (kernel - 1) / 2 && channels_in % kLanes == 0 &&
         channels_in <= kMostChannels && channels_out % kPanel == 0;
}

bool WinogradConvolution::beats_bf16(std::int64_t kernel, std::int64_t channels_in,
                                     std::int64_t channels_out) {
  return !cpu_features().bf16 || (kernel == 3 && channels_in * channels_out <= 128 * 128);
}

WinogradConvolution::WinogradConvolution(std::int64_t channels_in, std::int64_t channels_out,
                                         std::int64_t kernel, const float* bias)
    : channels_in_(channels_in),
      channels_out_(channels_out),
      block_(kPatch + 1 - kernel),
      padding_((kernel - 1) / 2),
      bias_(static_cast<std::size_t>(channels_out)) {
  if (bias != nullptr) std::copy_n(bias, channels_out, bias_.begin());
  weights_.grow(static_cast<std::size_t>(kPoints * channels_out * channels_in) * sizeof(float));
}

/// Where the weights of 16 output channels and an input channel lie.
float* WinogradConvolution::panel(std::int64_t point, std::int64_t channel_out,
                                  std::int64_t channel_in) const {
  const std::int64_t row =
      (point * channels_out_ + channel_out / kPanel * kPanel) * channels_in_ + channel_in * kPanel;
  return reinterpret_cast<float*>(weights_.get()) + row + channel_out % kPanel;
}

/// @param inputs, outputs of the convolution that `weight` is of @param is_turned this is the one
/// of its inputs' gradient
void WinogradConvolution::transform(const float* weight, std::int64_t inputs, std::int64_t outputs,
                                    std::int64_t kernel, bool is_turned) {
#if QUADRAT_WINOGRAD
  const std::int64_t taps = kernel * kernel, step = taps * inputs;
  const std::int64_t plane = channels_out_ * channels_in_;
  const auto transform_16 = kernel == 3 ? transform_kernels<3> : transform_kernels<5>;
  if (is_turned) {
    for (std::int64_t c = 0; c < inputs; c += kLanes) {
      for (std::int64_t k = 0; k < outputs; ++k)
        transform_16(weight + k * step + (taps - 1) * inputs + c, -inputs, 1, panel(0, c, k),
                     plane);
    }
  } else {
    for (std::int64_t k = 0; k < outputs; k += kLanes) {
      for (std::int64_t c = 0; c < inputs; ++c)
        transform_16(weight + k * step + c, inputs, step, panel(0, k, c), plane);
    }
  }
#endif
}

WinogradConvolution::WinogradConvolution(const float* weight, const float* bias,
                                         std::int64_t channels_in, std::int64_t channels_out,
                                         std::int64_t kernel)
    : WinogradConvolution(channels_in, channels_out, kernel, bias) {
  transform(weight, channels_in, channels_out, kernel, /*is_turned=*/false);
}

WinogradConvolution WinogradConvolution::of_input_gradient(const float* weight,
                                                           std::int64_t channels_in,
                                                           std::int64_t channels_out,
                                                           std::int64_t kernel) {
  WinogradConvolution made(channels_out, channels_in, kernel, nullptr);
  made.transform(weight, channels_in, channels_out, kernel, /*is_turned=*/true);
  return made;
}

template <typename T>
void WinogradConvolution::run(const T* in, WinogradMaps maps, const T* addend, bool relu,
                              T* out) const {
  const std::int64_t pixels = maps.height * maps.width;
  at::parallel_for(0, maps.count, 1, [&](std::int64_t begin, std::int64_t end) {
    const std::int64_t before = begin * pixels * channels_out_;
    run_on_this_thread(in + begin * pixels * channels_in_, {end - begin, maps.height, maps.width},
                       addend == nullptr ? nullptr : addend + before, relu, out + before);
  });
}

template <typename T>
void WinogradConvolution::run_on_this_thread(const T* in, WinogradMaps maps, const T* addend,
                                             bool relu, T* out) const {
#if QUADRAT_WINOGRAD
  const Grid grid(maps, block_);
  const std::int64_t blocks = grid.blocks();
  const std::int64_t most = blocks_per_pass(blocks, kMostBlocks);
  const std::int64_t plane_in = most * channels_in_ + kStagger;
  const std::int64_t plane_out = most * channels_out_ + kStagger;
  static thread_local AlignedBytes scratch;
  scratch.grow(static_cast<std::size_t>(kPoints * (plane_in + plane_out)) * sizeof(float));
  float* const points_in = reinterpret_cast<float*>(scratch.get());
  float* const points_out = points_in + kPoints * plane_in;

  for (std::int64_t first = 0; first < blocks; first += most) {
    const std::int64_t here = std::min(most, blocks - first);
    for (std::int64_t b = 0; b < here; ++b) {
      auto [map, row, column] = grid.corner(first + b);
      const auto pixels =
          pixels_at<kPatch>(in, maps, channels_in_, {map, row - padding_, column - padding_});
      transform_patch<kPatch>(pixels, channels_in_,
                              {points_in + b * channels_in_, plane_in, kPanel});
    }
    for (std::int64_t point = 0; point < kPoints; ++point) {
      for (std::int64_t k = 0; k < channels_out_; k += kPanel) {
        multiply_rows(here, {points_in + point * plane_in, channels_in_, 1}, panel(point, k, 0),
                      channels_in_, /*adds=*/false, points_out + point * plane_out + k,
                      channels_out_);
      }
    }
    for (std::int64_t b = 0; b < here; ++b) {
      const auto [map, row, column] = grid.corner(first + b);
      const Place place{(map * maps.height + row) * maps.width + column,
                        std::min(block_, maps.height - row), std::min(block_, maps.width - column)};
      const float* points = points_out + b * channels_out_;
      if (block_ == 4) {
        transform_back<T, 4>(points, plane_out, bias_.data(), channels_out_, maps.width, place,
                             addend, relu, out);
      } else {
        transform_back<T, 2>(points, plane_out, bias_.data(), channels_out_, maps.width, place,
                             addend, relu, out);
      }
    }
  }
#endif
}

template void WinogradConvolution::run(const float*, WinogradMaps, const float*, bool,
                                       float*) const;
template void WinogradConvolution::run(const std::uint16_t*, WinogradMaps, const std::uint16_t*,
                                       bool, std::uint16_t*) const;

}  // namespace quadrat
