#include <ATen/Parallel.h>

#include <algorithm>

#include "winograd_kernels.h"

namespace quadrat {

using namespace winograd;

#if QUADRAT_WINOGRAD

namespace {

/// The sums of all weights are read and written once a pass, so that many blocks are good; memory
/// between the transforms is limited.
constexpr std::int64_t kMostBlocks = 256;
constexpr std::int64_t kMostBytes = std::int64_t{32} << 20;

/// From the 36 points to the taps of an output channel's kernels: the adjoint of their transform.
/// @param points the first 16 input channels', `plane` apart
/// @param taps the first 16 input channels', `step_tap` from tap to tap
template <int Kernel>
QUADRAT_AVX512_FUNCTION void gather_taps(const float* points, std::int64_t plane, float* taps,
                                         std::int64_t step_tap) {
  static constexpr auto rows = kernel_transform(Kernel);
  __m512 half[Kernel][kPatch];
  for (std::size_t x = 0; x < kPatch; ++x) {
    for (auto& row : half) row[x] = _mm512_setzero_ps();
    for (std::size_t y = 0; y < kPatch; ++y) {
      const __m512 values =
          _mm512_load_ps(points + static_cast<std::int64_t>(y * kPatch + x) * plane);
      for (std::size_t i = 0; i < Kernel; ++i)
        half[i][x] = _mm512_fmadd_ps(all(rows[y][i]), values, half[i][x]);
    }
  }
  for (std::size_t i = 0; i < Kernel; ++i) {
    for (std::size_t j = 0; j < Kernel; ++j, taps += step_tap) {
      __m512 value = _mm512_mul_ps(all(rows[0][j]), half[i][0]);
      for (std::size_t x = 1; x < kPatch; ++x)
        value = _mm512_fmadd_ps(all(rows[x][j]), half[i][x], value);
      store(taps, value);
    }
  }
}

}  // namespace

#endif

template <typename T>
void WinogradWeightGradient::run(const T* in, const T* gradient, WinogradMaps maps,
                                 float* out) const {
#if QUADRAT_WINOGRAD
  const Grid grid(maps, kPatch + 1 - kernel_);
  if (grid.blocks() == 0) {
    std::fill_n(out, channels_out_ * kernel_ * kernel_ * channels_in_, 0.0F);
    return;
  }
  const std::int64_t padding = (kernel_ - 1) / 2;
  const auto bytes_of_block =
      kPoints * (channels_in_ + channels_out_) * static_cast<std::int64_t>(sizeof(float));
  const std::int64_t most = blocks_per_pass(
      grid.blocks(), std::clamp<std::int64_t>(kMostBytes / bytes_of_block, 1, kMostBlocks));
  // The inputs' points as [36, channels_in / 64, blocks, 64], the gradients' as [36, blocks,
  // channels_out], the sums as [36, channels_in / 64, channels_out, 64].
  const std::int64_t row_out = channels_out_ + kStagger;
  const std::int64_t plane_in = most * channels_in_ + kStagger;
  const std::int64_t plane_out = most * row_out + kStagger;
  const std::int64_t plane_sums = channels_out_ * channels_in_ + kStagger;
  static thread_local AlignedBytes scratch;
  scratch.grow(static_cast<std::size_t>(kPoints * (plane_in + plane_out + plane_sums)) *
               sizeof(float));
  float* const points_in = reinterpret_cast<float*>(scratch.get());
  float* const points_out = points_in + kPoints * plane_in;
  float* const sums = points_out + kPoints * plane_out;

  for (std::int64_t first = 0; first < grid.blocks(); first += most) {
    const std::int64_t here = std::min(most, grid.blocks() - first);
    at::parallel_for(0, here, 8, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t b = begin; b < end; ++b) {
        const auto corner = grid.corner(first + b);
        const Grid::Corner before{corner.map, corner.row - padding, corner.column - padding};
        transform_patch<kPatch>(pixels_at<kPatch>(in, maps, channels_in_, before), channels_in_,
                                {points_in + b * kPanel, plane_in, most * kPanel});
        const PointRows rows{points_out + b * row_out, plane_out, kPanel};
        if (kernel_ == 3) {
          transform_patch<4>(pixels_at<4>(gradient, maps, channels_out_, corner), channels_out_,
                             rows);
        } else {
          transform_patch<2>(pixels_at<2>(gradient, maps, channels_out_, corner), channels_out_,
                             rows);
        }
      }
    });
    const std::int64_t panels = channels_in_ / kPanel;
    at::parallel_for(0, kPoints * panels, 1, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t i = begin; i < end; ++i) {
        const std::int64_t point = i / panels, panel = i % panels;
        multiply_rows(channels_out_, {points_out + point * plane_out, 1, row_out},
                      points_in + point * plane_in + panel * most * kPanel, here, first > 0,
                      sums + point * plane_sums + panel * channels_out_ * kPanel, kPanel);
      }
    });
  }
  const auto gather = kernel_ == 3 ? gather_taps<3> : gather_taps<5>;
  at::parallel_for(0, channels_out_, 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t k = begin; k < end; ++k) {
      for (std::int64_t c = 0; c < channels_in_; c += kLanes) {
        gather(sums + (c / kPanel * channels_out_ + k) * kPanel + c % kPanel, plane_sums,
               out + k * kernel_ * kernel_ * channels_in_ + c, channels_in_);
      }
    }
  });
#endif
}

template void WinogradWeightGradient::run(const float*, const float*, WinogradMaps, float*) const;
template void WinogradWeightGradient::run(const std::uint16_t*, const std::uint16_t*, WinogradMaps,
                                          float*) const;

}  // namespace quadrat
