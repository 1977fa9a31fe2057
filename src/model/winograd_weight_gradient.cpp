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

/// Whether a point is the last along an axis along which a phase has no last tap.
bool is_beyond_taps(const WinogradShape& shape, std::int64_t point, std::int64_t phase) {
  const std::int64_t whole = whole_phases(shape), last = kPatch - 1;
  return (point / kPatch == last && phase / shape.stride >= whole) ||
         (point % kPatch == last && phase % shape.stride >= whole);
}

}  // namespace

bool WinogradWeightGradient::is_supported(const WinogradShape& shape) {
  return WinogradConvolution::is_supported(shape) &&
         shape.channels_in % kernels<float>().panel == 0 && shape.channels_out <= kMostChannels;
}

template <typename T>
void WinogradWeightGradient::run(const T* in, const T* gradient, WinogradMaps maps,
                                 float* out) const {
  const Kernels<T>& cpu = kernels<T>();
  const std::int64_t channels_in = shape_.channels_in, outputs = shape_.channels_out;
  const std::int64_t stride = shape_.stride, phases = stride * stride;
  const std::int64_t inputs = phases * channels_in;
  const std::int64_t step = shape_.kernel * shape_.kernel * channels_in;
  const Grid grid = grid_of(shape_, maps);
  if (grid.blocks() == 0) {
    std::fill_n(out, outputs * step, 0.0F);
    return;
  }
  const auto bytes_of_block =
      kPoints * (inputs + outputs) * static_cast<std::int64_t>(sizeof(float));
  const std::int64_t most = blocks_per_pass(
      grid.blocks(), std::clamp<std::int64_t>(kMostBytes / bytes_of_block, 1, kMostBlocks));
  // The inputs' points as [36, panels of all phases, blocks, panel], the gradients' as [36, blocks,
  // channels_out], the sums as [36, panels, channels_out, panel].
  const std::int64_t panel = cpu.panel, panels = inputs / panel;
  const std::int64_t row_out = outputs + kStagger;
  const std::int64_t plane_in = most * inputs + kStagger;
  const std::int64_t plane_out = most * row_out + kStagger;
  const std::int64_t plane_sums = outputs * inputs + kStagger;
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
        for (std::int64_t phase = 0; phase < phases; ++phase) {
          const auto pixels =
              pixels_at(in, maps, channels_in, corner_of(shape_, corner, phase), kPatch, stride);
          cpu.patch_to_points(
              pixels.data(), kPatch, channels_in,
              {points_in + phase * channels_in * most + b * panel, plane_in, most * panel});
        }
        const auto gradients = pixels_at(gradient, grid.maps, outputs, corner, grid.side);
        cpu.patch_to_points(gradients.data(), grid.side, outputs,
                            {points_out + b * row_out, plane_out, panel});
      }
    });
    at::parallel_for(0, kPoints * panels, 1, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t i = begin; i < end; ++i) {
        const std::int64_t point = i / panels, first_channel = i % panels * panel;
        float* const sum = sums + point * plane_sums + first_channel * outputs;
        if (!is_beyond_taps(shape_, point, first_channel / channels_in)) {
          cpu.multiply(outputs, {points_out + point * plane_out, 1, row_out},
                       points_in + point * plane_in + first_channel * most, here, first > 0, sum,
                       panel);
        } else if (first == 0) {
          std::fill_n(sum, outputs * panel, 0.0F);
        }
      }
    });
  }
  at::parallel_for(0, outputs, 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t k = begin; k < end; ++k) {
      for (std::int64_t c = 0; c < inputs; c += cpu.lanes) {
        const auto taps = taps_of(shape_, c / channels_in, out + k * step + c % channels_in);
        cpu.points_to_kernels(shape_.taps(), sums + (c / panel * outputs + k) * panel + c % panel,
                              plane_sums, taps.data());
      }
    }
  });
}

template void WinogradWeightGradient::run(const float*, const float*, WinogradMaps, float*) const;
template void WinogradWeightGradient::run(const std::uint16_t*, const std::uint16_t*, WinogradMaps,
                                          float*) const;

}  // namespace quadrat
