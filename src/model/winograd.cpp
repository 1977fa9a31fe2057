#include "quadrat/model/winograd.h"

#include <ATen/Parallel.h>

#include <algorithm>
#include <array>

#include "quadrat/base/cpu.h"
#include "winograd_parts.h"

namespace quadrat {

using namespace winograd;

namespace {

constexpr std::int64_t kMostBlocks = 48;  // between the transforms; more leave the cache

}  // namespace

template <typename T>
const Kernels<T>& winograd::kernels() {
  static const Kernels<T> best = cpu_features().avx512 ? avx512::kernels<T>() : avx2::kernels<T>();
  return best;
}
template const Kernels<float>& winograd::kernels();
template const Kernels<std::uint16_t>& winograd::kernels();

bool WinogradConvolution::is_supported(std::int64_t kernel, std::int64_t stride,
                                       std::int64_t padding, std::int64_t channels_in,
                                       std::int64_t channels_out) {
  if (!cpu_features().avx2) return false;
  const Kernels<float>& cpu = kernels<float>();
  return (kernel == 3 || kernel == 5) && stride == 1 && padding == (kernel - 1) / 2 &&
         channels_in % cpu.lanes == 0 && channels_in <= kMostChannels &&
         channels_out % cpu.panel == 0;
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

/// Where the weights of the output channels from `channel_out` on and of an input channel lie.
float* WinogradConvolution::panel(std::int64_t point, std::int64_t channel_out,
                                  std::int64_t channel_in) const {
  const std::int64_t width = kernels<float>().panel;
  const std::int64_t row =
      (point * channels_out_ + channel_out / width * width) * channels_in_ + channel_in * width;
  return reinterpret_cast<float*>(weights_.get()) + row + channel_out % width;
}

/// @param inputs, outputs of the convolution that `weight` is of @param is_turned this is the one
/// of its inputs' gradient
void WinogradConvolution::transform(const float* weight, std::int64_t inputs, std::int64_t outputs,
                                    std::int64_t kernel, bool is_turned) {
  const std::int64_t taps = kernel * kernel, step = taps * inputs;
  const std::int64_t plane = channels_out_ * channels_in_;
  const Kernels<float>& cpu = kernels<float>();
  if (is_turned) {
    for (std::int64_t c = 0; c < inputs; c += cpu.lanes) {
      for (std::int64_t k = 0; k < outputs; ++k) {
        cpu.kernels_to_points(kernel, weight + k * step + (taps - 1) * inputs + c, -inputs, 1,
                              panel(0, c, k), plane);
      }
    }
  } else {
    for (std::int64_t k = 0; k < outputs; k += cpu.lanes) {
      for (std::int64_t c = 0; c < inputs; ++c) {
        cpu.kernels_to_points(kernel, weight + k * step + c, inputs, step, panel(0, k, c), plane);
      }
    }
  }
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
  const Kernels<T>& cpu = kernels<T>();
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
      cpu.patch_to_points(pixels.data(), kPatch, channels_in_,
                          {points_in + b * channels_in_, plane_in, cpu.panel});
    }
    for (std::int64_t point = 0; point < kPoints; ++point) {
      for (std::int64_t k = 0; k < channels_out_; k += cpu.panel) {
        cpu.multiply(here, {points_in + point * plane_in, channels_in_, 1}, panel(point, k, 0),
                     channels_in_, /*adds=*/false, points_out + point * plane_out + k,
                     channels_out_);
      }
    }
    for (std::int64_t b = 0; b < here; ++b) {
      const auto [map, row, column] = grid.corner(first + b);
      const Place place{(map * maps.height + row) * maps.width + column,
                        std::min(block_, maps.height - row), std::min(block_, maps.width - column)};
      cpu.points_to_block(points_out + b * channels_out_, plane_out, block_, bias_.data(),
                          channels_out_, maps.width, place, addend, relu, out);
    }
  }
}

template void WinogradConvolution::run(const float*, WinogradMaps, const float*, bool,
                                       float*) const;
template void WinogradConvolution::run(const std::uint16_t*, WinogradMaps, const std::uint16_t*,
                                       bool, std::uint16_t*) const;

}  // namespace quadrat
