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

/// Whether channels are too few for vectors, so that phases are arranged next to each other.
bool are_arranged(const WinogradShape& shape) {
  return shape.channels_in % kernels<float>().lanes != 0;
}

/// The points' channels of all phases.
std::int64_t channels_of(const WinogradShape& shape) {
  constexpr std::int64_t kMultiple = 16;
  const std::int64_t channels = shape.stride * shape.stride * shape.channels_in;
  return (channels + kMultiple - 1) / kMultiple * kMultiple;
}

/// One map as one of all phases' channels, without padding.
template <typename T>
void arrange(const WinogradShape& shape, const T* in, WinogradMaps map, WinogradMaps phases,
             T* out) {
  const std::int64_t stride = shape.stride, channels = shape.channels_in;
  const std::int64_t segment = stride * channels, row = map.width * channels;
  const std::int64_t all = channels_of(shape);
  std::fill_n(out, phases.pixels() * all, T());
  for (std::int64_t y = 0; y < phases.height * stride; ++y) {
    const std::int64_t from_y = y - shape.padding;
    if (from_y < 0 || from_y >= map.height) continue;
    const T* const pixels = in + from_y * row;
    T* to = out + y / stride * phases.width * all + y % stride * segment;
    for (std::int64_t x = 0; x < phases.width; ++x, to += all) {
      const std::int64_t first = x * segment - shape.padding * channels;
      const std::int64_t begin = std::max<std::int64_t>(first, 0);
      const std::int64_t end = std::min(first + segment, row);
      if (begin < end) std::copy(pixels + begin, pixels + end, to + (begin - first));
    }
  }
}

}  // namespace

template <typename T>
const Kernels<T>& winograd::kernels() {
  static const Kernels<T> best = cpu_features().avx512 ? avx512::kernels<T>() : avx2::kernels<T>();
  return best;
}
template const Kernels<float>& winograd::kernels();
template const Kernels<std::uint16_t>& winograd::kernels();

bool WinogradConvolution::is_supported(const WinogradShape& shape) {
  if (!cpu_features().avx2) return false;
  const bool is_centred = shape.kernel % 2 == 1 && shape.padding == (shape.kernel - 1) / 2;
  const bool has_taps = shape.taps() >= 2 && shape.taps() <= 5;
  const bool has_padding = shape.stride == 1 ? is_centred : shape.padding < shape.kernel;
  const bool has_channels =
      !are_arranged(shape) || (shape.stride > 1 && channels_of(shape) <= 4 * shape.channels_out);
  return has_taps && has_padding && has_channels && channels_of(shape) <= kMostChannels &&
         shape.channels_out % kernels<float>().panel == 0;
}

bool WinogradConvolution::pays(const WinogradShape& shape, std::int64_t height, std::int64_t width,
                               WinogradProducts products) {
  if (!is_supported(shape)) return false;
  const std::int64_t more = 2 * shape.padding - shape.kernel;
  if (height + more < 0 || width + more < 0) return false;  // there is no output
  // With AVX-512 nobody has measured whether strides do. In integers, ranks of all CPUs compute
  // alike.
  if (shape.stride > 1 && cpu_features().avx512 && products == WinogradProducts::kFloat32)
    return false;
  const Grid grid = grid_of(shape, {1, height, width});
  const auto multiplications = kPoints * shape.stride * shape.stride * grid.blocks();
  return 5 * multiplications < 4 * grid.maps.pixels() * shape.kernel * shape.kernel;
}

bool WinogradConvolution::beats_bf16(const WinogradShape& shape) {
  return !cpu_features().bf16 || (shape.stride == 1 && shape.kernel == 3 &&
                                  shape.channels_in * shape.channels_out <= 128 * 128);
}

WinogradConvolution::WinogradConvolution(const WinogradShape& shape, const float* bias)
    : shape_(shape),
      channels_(channels_of(shape)),
      bias_(static_cast<std::size_t>(shape.channels_out)) {
  if (bias != nullptr) std::copy_n(bias, shape.channels_out, bias_.begin());
  weights_.grow(static_cast<std::size_t>(kPoints * shape.channels_out * channels_) * sizeof(float));
}

/// Where the weights of the output channels from `channel_out` on and of an input channel lie;
/// rounded ones only those of a panel, of a pair's first channel.
std::int64_t WinogradConvolution::panel(std::int64_t point, std::int64_t channel_out,
                                        std::int64_t channel_in) const {
  const std::int64_t width = kernels<float>().panel;
  return (point * shape_.channels_out + channel_out / width * width) * channels_ +
         channel_in * width + channel_out % width;
}

WinogradConvolution::WinogradConvolution(const WinogradShape& shape, const float* weight,
                                         const float* bias, WinogradProducts products)
    : WinogradConvolution(shape, bias) {
  const Kernels<float>& cpu = kernels<float>();
  const std::int64_t inputs = shape.channels_in, phases = shape.stride * shape.stride;
  const std::int64_t step = shape.kernel * shape.kernel * inputs;
  if (phases * inputs < channels_)
    std::fill_n(weights(0), kPoints * shape.channels_out * channels_, 0.0F);
  for (std::int64_t k = 0; k < shape.channels_out; k += cpu.lanes) {
    for (std::int64_t c = 0; c < phases * inputs; ++c) {
      const auto taps = taps_of(shape, c / inputs, weight + k * step + c % inputs);
      cpu.kernels_to_points(shape.taps(), taps.data(), step, weights(panel(0, k, c)),
                            shape.channels_out * channels_);
    }
  }
  // Points of fewer channels are not worth rounding.
  constexpr std::int64_t kFewestRounded = 32;
  if (products == WinogradProducts::kInt16 && channels_ >= kFewestRounded) round_weights();
}

void WinogradConvolution::round_weights() {
  const Kernels<float>& cpu = kernels<float>();
  const std::int64_t rows = kPoints * shape_.channels_out;
  products_ = WinogradProducts::kInt16;
  rounded_.grow(static_cast<std::size_t>(rows * channels_) * sizeof(std::int16_t));
  scales_.resize(static_cast<std::size_t>(rows));
  auto* const rounded = reinterpret_cast<std::int16_t*>(rounded_.get());
  for (std::int64_t row = 0; row < rows; row += cpu.panel) {
    cpu.round_panel(weights(row * channels_), channels_, rounded + row * channels_,
                    scales_.data() + row);
  }
  weights_ = {};
}

WinogradConvolution WinogradConvolution::of_input_gradient(const WinogradShape& shape,
                                                           const float* weight) {
  const Kernels<float>& cpu = kernels<float>();
  const std::int64_t inputs = shape.channels_in, outputs = shape.channels_out;
  const std::int64_t count = shape.kernel * shape.kernel;
  WinogradConvolution made({outputs, inputs, shape.kernel, 1, shape.padding}, nullptr);
  std::array<const float*, kPoints> taps;
  for (std::int64_t c = 0; c < inputs; c += cpu.lanes) {
    for (std::int64_t k = 0; k < outputs; ++k) {
      for (std::int64_t i = 0; i < count; ++i) {
        taps[static_cast<std::size_t>(i)] = weight + (k * count + count - 1 - i) * inputs + c;
      }
      cpu.kernels_to_points(shape.kernel, taps.data(), 1, made.weights(made.panel(0, c, k)),
                            inputs * made.channels_);
    }
  }
  return made;
}

template <typename T>
void WinogradConvolution::run(const T* in, WinogradMaps maps, const T* addend, bool relu,
                              T* out) const {
  const std::int64_t step_in = maps.height * maps.width * shape_.channels_in;
  const WinogradMaps outs = shape_.outputs_of(maps);
  const std::int64_t step_out = outs.height * outs.width * shape_.channels_out;
  at::parallel_for(0, maps.count, 1, [&](std::int64_t begin, std::int64_t end) {
    run_on_this_thread(in + begin * step_in, {end - begin, maps.height, maps.width},
                       addend == nullptr ? nullptr : addend + begin * step_out, relu,
                       out + begin * step_out);
  });
}

template <typename T>
void WinogradConvolution::run_on_this_thread(const T* in, WinogradMaps maps, const T* addend,
                                             bool relu, T* out) const {
  if (!are_arranged(shape_)) return run_blocks(shape_, in, maps, addend, relu, out);
  const WinogradShape shape{channels_, shape_.channels_out, shape_.taps(), 1, 0};
  const WinogradMaps map{1, maps.height, maps.width}, outs = shape_.outputs_of(map);
  const std::int64_t more = shape_.taps() - 1;
  const WinogradMaps phases{1, outs.height + more, outs.width + more};
  static thread_local AlignedBytes arranged;
  arranged.grow(static_cast<std::size_t>(phases.pixels() * channels_) * sizeof(T));
  T* const pixels = reinterpret_cast<T*>(arranged.get());
  for (std::int64_t n = 0; n < maps.count; ++n) {
    arrange(shape_, in + n * map.pixels() * shape_.channels_in, map, phases, pixels);
    const std::int64_t before = n * outs.pixels() * shape_.channels_out;
    run_blocks(shape, pixels, phases, addend == nullptr ? nullptr : addend + before, relu,
               out + before);
  }
}

/// A pass's points, or a block's and all blocks' rounded.
struct WinogradConvolution::Points {
  float* values;  ///< [36, blocks or 1, channels], `plane` from point to point
  std::int64_t plane;
  std::int16_t* rounded;  ///< [36, blocks, channels], likewise
  std::int64_t plane_rounded;
  float* scales;  ///< [36, blocks]
  std::int64_t blocks;
};

/// out[rows, channels_out] = points[rows, channels] x the weights at one of them
void WinogradConvolution::multiply(std::int64_t point, std::int64_t rows, const Points& points,
                                   float* out) const {
  const Kernels<float>& cpu = kernels<float>();
  const std::int64_t across = shape_.stride * shape_.channels_in;  // phases of the same row
  const bool is_last_row = point / kPatch == kPatch - 1, is_last = point % kPatch == kPatch - 1;
  const std::int64_t whole = whole_phases(shape_);
  const std::int64_t rows_of_phases = is_last_row ? whole : shape_.stride;
  const bool skips = is_last && whole < shape_.stride && across % 2 == 0;  // pairs stay whole
  const auto add_product = [&](std::int64_t k, std::int64_t first, std::int64_t count, bool adds) {
    const std::int64_t at = panel(point, k, first);
    if (products_ == WinogradProducts::kFloat32) {
      cpu.multiply(rows, {points.values + point * points.plane + first, channels_, 1}, weights(at),
                   count, adds, out + k, shape_.channels_out);
    } else {
      // The weights of a channel too many are zero.
      cpu.multiply_rounded(rows,
                           {points.rounded + point * points.plane_rounded + first, channels_,
                            points.scales + point * points.blocks},
                           reinterpret_cast<const std::int16_t*>(rounded_.get()) + at,
                           scales_.data() + point * shape_.channels_out + k, (count + 1) / 2, adds,
                           out + k, shape_.channels_out);
    }
  };
  for (std::int64_t k = 0; k < shape_.channels_out; k += cpu.panel) {
    if (skips) {
      for (std::int64_t y = 0; y < rows_of_phases; ++y)
        add_product(k, y * across, whole * shape_.channels_in, /*adds=*/y > 0);
    } else {
      add_product(k, 0, rows_of_phases * across, /*adds=*/false);
    }
  }
}

/// @param shape this convolution's, or that of the arranged phases, which `in` is then one map of
template <typename T>
void WinogradConvolution::run_blocks(const WinogradShape& shape, const T* in, WinogradMaps maps,
                                     const T* addend, bool relu, T* out) const {
  const Kernels<T>& cpu = kernels<T>();
  const std::int64_t channels = shape.channels_in, channels_out = shape.channels_out;
  const Grid grid = grid_of(shape, maps);
  const std::int64_t blocks = grid.blocks();
  const std::int64_t most = blocks_per_pass(blocks, kMostBlocks);
  const bool rounds = products_ == WinogradProducts::kInt16;
  const std::int64_t plane_in = (rounds ? 1 : most) * channels_ + kStagger;
  const std::int64_t plane_out = most * channels_out + kStagger;
  const std::int64_t plane_rounded = most * channels_ + 2 * kStagger;
  const std::int64_t floats = kPoints * (plane_in + plane_out + most);
  static thread_local AlignedBytes scratch;
  scratch.grow(
      static_cast<std::size_t>(floats) * sizeof(float) +
      (rounds ? static_cast<std::size_t>(kPoints * plane_rounded) * sizeof(std::int16_t) : 0));
  float* const points_in = reinterpret_cast<float*>(scratch.get());
  float* const points_out = points_in + kPoints * plane_in;
  const Points points{points_in,
                      plane_in,
                      reinterpret_cast<std::int16_t*>(points_in + floats),
                      plane_rounded,
                      points_out + kPoints * plane_out,
                      most};

  for (std::int64_t first = 0; first < blocks; first += most) {
    const std::int64_t here = std::min(most, blocks - first);
    for (std::int64_t b = 0; b < here; ++b) {
      const auto corner = grid.corner(first + b);
      float* const block = points.values + (rounds ? 0 : b * channels_);
      for (std::int64_t phase = 0; phase < shape.stride * shape.stride; ++phase) {
        const auto pixels =
            pixels_at(in, maps, channels, corner_of(shape, corner, phase), kPatch, shape.stride);
        cpu.patch_to_points(pixels.data(), kPatch, channels,
                            {block + phase * channels, plane_in, cpu.panel});
      }
      if (rounds) {
        cpu.round_rows(kPoints, block, plane_in, shape.stride * shape.stride * channels,
                       points.rounded + b * channels_, plane_rounded, points.scales + b, most);
      }
    }
    for (std::int64_t point = 0; point < kPoints; ++point)
      multiply(point, here, points, points_out + point * plane_out);
    for (std::int64_t b = 0; b < here; ++b) {
      const auto [map, row, column] = grid.corner(first + b);
      const WinogradMaps& outs = grid.maps;
      const Place place{(map * outs.height + row) * outs.width + column,
                        std::min(grid.side, outs.height - row),
                        std::min(grid.side, outs.width - column)};
      cpu.points_to_block(points_out + b * channels_out, plane_out, grid.side, bias_.data(),
                          channels_out, outs.width, place, addend, relu, out);
    }
  }
}

template void WinogradConvolution::run(const float*, WinogradMaps, const float*, bool,
                                       float*) const;
template void WinogradConvolution::run(const std::uint16_t*, WinogradMaps, const std::uint16_t*,
                                       bool, std::uint16_t*) const;

}  // namespace quadrat
