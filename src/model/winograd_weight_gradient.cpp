#include <ATen/Parallel.h>

#include <algorithm>

#include "winograd_parts.h"

namespace quadrat {

using namespace winograd;

namespace {

/// The sums of all weights are read and written once a pass, so that many blocks are good; memory
/// between the transforms is limited.
constexpr std::int64_t kMostBlocks = 256;
constexpr std::int64_t kMostBytes = std::int64_t{32} << 20;

}  // namespace

template <typename T>
void WinogradWeightGradient::run(const T* in, const T* gradient, WinogradMaps maps,
                                 float* out) const {
  const Kernels<T>& cpu = kernels<T>();
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
  // The inputs' points as [36, panels, blocks, panel], the gradients' as [36, blocks,
  // channels_out], the sums as [36, panels, channels_out, panel].
  const std::int64_t panel = cpu.panel, panels = channels_in_ / panel;
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
        const auto pixels = pixels_at<kPatch>(in, maps, channels_in_, before);
        cpu.patch_to_points(pixels.data(), kPatch, channels_in_,
                            {points_in + b * panel, plane_in, most * panel});
        const PointRows rows{points_out + b * row_out, plane_out, panel};
        if (grid.side == 4) {
          const auto gradients = pixels_at<4>(gradient, maps, channels_out_, corner);
          cpu.patch_to_points(gradients.data(), 4, channels_out_, rows);
        } else {
          const auto gradients = pixels_at<2>(gradient, maps, channels_out_, corner);
          cpu.patch_to_points(gradients.data(), 2, channels_out_, rows);
        }
      }
    });
    at::parallel_for(0, kPoints * panels, 1, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t i = begin; i < end; ++i) {
        const std::int64_t point = i / panels, first_channel = i % panels * panel;
        cpu.multiply(channels_out_, {points_out + point * plane_out, 1, row_out},
                     points_in + point * plane_in + first_channel * most, here, first > 0,
                     sums + point * plane_sums + first_channel * channels_out_, panel);
      }
    });
  }
  at::parallel_for(0, channels_out_, 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t k = begin; k < end; ++k) {
      for (std::int64_t c = 0; c < channels_in_; c += cpu.lanes) {
        cpu.points_to_kernels(kernel_, sums + (c / panel * channels_out_ + k) * panel + c % panel,
                              plane_sums, out + k * kernel_ * kernel_ * channels_in_ + c,
                              channels_in_);
      }
    }
  });
}

template void WinogradWeightGradient::run(const float*, const float*, WinogradMaps, float*) const;
template void WinogradWeightGradient::run(const std::uint16_t*, const std::uint16_t*, WinogradMaps,
                                          float*) const;

}  // namespace quadrat
