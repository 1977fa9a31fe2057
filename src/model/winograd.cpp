#include "quadrat/model/winograd.h"

#include <algorithm>
#include <array>
#include <cstring>

#include "quadrat/base/cpu.h"

#if defined(__x86_64__) && defined(__GNUC__)
#define QUADRAT_WINOGRAD 1
#include <immintrin.h>
#else
#define QUADRAT_WINOGRAD 0
#endif

namespace quadrat {

namespace {

constexpr std::int64_t kPatch = 6;  // inputs a side that a block of outputs looks at
constexpr std::int64_t kPoints = kPatch * kPatch;
/// The points besides 0 and infinity are kA, -kA, kB and -kB: these round six times less than 1 and
/// 2 do (Alam et al., "Winograd Convolution for Deep Neural Networks: Efficient Point Selection",
/// 2022).
constexpr double kA = 0.70710678118654752;
constexpr double kB = 1.41421356237309505;
constexpr std::int64_t kLanes = 16;
constexpr std::int64_t kPanel = 4 * kLanes;  // output channels that are computed together
constexpr std::int64_t kRows = 6;  // blocks that are computed together: 24 sums in 32 registers
constexpr std::int64_t kMostBlocks = 48;      // between the transforms; more leave the cache
constexpr std::int64_t kMostChannels = 4096;  // of zeros around a map
/// Between the 36 planes, so that a step from plane to plane does not fall on the same cache lines.
constexpr std::int64_t kStagger = kLanes;

constexpr std::size_t kAlignment = AlignedBytes::kAlignment;

/// Evaluates a kernel of `size` taps at the six points: row i holds a_i^j / prod_(k != i) (a_i -
/// a_k).
std::array<std::array<double, 5>, kPatch> kernel_transform(std::int64_t size) {
  constexpr std::array<double, 5> kAt{0, kA, -kA, kB, -kB};
  std::array<std::array<double, 5>, kPatch> rows{};
  for (std::size_t i = 0; i < kAt.size(); ++i) {
    double factor = 1;
    for (std::size_t k = 0; k < kAt.size(); ++k) {
      if (k != i) factor /= kAt[i] - kAt[k];
    }
    for (std::size_t j = 0; j < static_cast<std::size_t>(size); ++j, factor *= kAt[i])
      rows[i][j] = factor;
  }
  rows[kPatch - 1][static_cast<std::size_t>(size - 1)] = 1;  // infinity: the leading coefficient
  return rows;
}

#if QUADRAT_WINOGRAD

#define QUADRAT_AVX512 \
  __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq"), always_inline)) inline
#define QUADRAT_AVX512_FUNCTION __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq")))

QUADRAT_AVX512 __m512 load(const float* at) { return _mm512_loadu_ps(at); }

QUADRAT_AVX512 __m512 load(const std::uint16_t* at) {
  const __m512i wide =
      _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(at)));
  return _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
}

QUADRAT_AVX512 void store(float* at, __m512 values) { _mm512_storeu_ps(at, values); }

/// To the nearest bf16, ties to even. Nothing here is not a number.
QUADRAT_AVX512 void store(std::uint16_t* at, __m512 values) {
  const __m512i bits = _mm512_castps_si512(values);
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
  const __m512i rounded = _mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff)), odd);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(at),
                      _mm512_cvtepi32_epi16(_mm512_srli_epi32(rounded, 16)));
}

QUADRAT_AVX512 __m512 all(double value) { return _mm512_set1_ps(static_cast<float>(value)); }

/// Six values a patch along one axis, to the six points.
QUADRAT_AVX512 void to_points(const __m512 (&d)[6], __m512 (&t)[6]) {
  const __m512 a2 = all(kA * kA), b2 = all(kB * kB), sum2 = all(kA * kA + kB * kB);
  const __m512 even_a = _mm512_fnmadd_ps(b2, d[2], d[4]), odd_a = _mm512_fnmadd_ps(b2, d[1], d[3]);
  const __m512 even_b = _mm512_fnmadd_ps(a2, d[2], d[4]), odd_b = _mm512_fnmadd_ps(a2, d[1], d[3]);
  t[0] = _mm512_fnmadd_ps(sum2, d[2], _mm512_fmadd_ps(all(kA * kA * kB * kB), d[0], d[4]));
  t[1] = _mm512_fmadd_ps(all(kA), odd_a, even_a);
  t[2] = _mm512_fnmadd_ps(all(kA), odd_a, even_a);
  t[3] = _mm512_fmadd_ps(all(kB), odd_b, even_b);
  t[4] = _mm512_fnmadd_ps(all(kB), odd_b, even_b);
  t[5] = _mm512_fnmadd_ps(sum2, d[3], _mm512_fmadd_ps(all(kA * kA * kB * kB), d[1], d[5]));
}

/// x a + y b
QUADRAT_AVX512 __m512 mix(double x, __m512 a, double y, __m512 b) {
  return _mm512_fmadd_ps(all(y), b, _mm512_mul_ps(all(x), a));
}

/// From the six points to `Block` outputs along one axis.
template <int Block>
QUADRAT_AVX512 void from_points(const __m512 (&m)[6], __m512 (&o)[Block]) {
  const __m512 even_a = _mm512_add_ps(m[1], m[2]), odd_a = _mm512_sub_ps(m[1], m[2]);
  const __m512 even_b = _mm512_add_ps(m[3], m[4]), odd_b = _mm512_sub_ps(m[3], m[4]);
  o[0] = _mm512_add_ps(m[0], _mm512_add_ps(even_a, even_b));
  o[1] = mix(kA, odd_a, kB, odd_b);
  if constexpr (Block == 4) {
    o[2] = mix(kA * kA, even_a, kB * kB, even_b);
    o[3] = _mm512_add_ps(m[5], mix(kA * kA * kA, odd_a, kB * kB * kB, odd_b));
  } else {
    o[1] = _mm512_add_ps(m[5], o[1]);
  }
}

/// One patch of all channels to 36 rows, `plane` floats apart.
template <typename T>
QUADRAT_AVX512_FUNCTION void transform_patch(const std::array<const T*, kPoints>& pixels,
                                             std::int64_t channels, std::int64_t plane,
                                             float* out) {
  for (std::int64_t c = 0; c < channels; c += kLanes) {
    alignas(kAlignment) float columns[kPatch][kPatch][kLanes];
    __m512 d[6], t[6];
    for (std::size_t x = 0; x < 6; ++x) {
      for (std::size_t y = 0; y < 6; ++y) d[y] = load(pixels[y * 6 + x] + c);
      to_points(d, t);
      for (std::size_t y = 0; y < 6; ++y) _mm512_store_ps(columns[y][x], t[y]);
    }
    for (std::int64_t y = 0; y < 6; ++y) {
      for (std::size_t x = 0; x < 6; ++x) d[x] = _mm512_load_ps(columns[y][x]);
      to_points(d, t);
      for (std::int64_t x = 0; x < 6; ++x) {
        _mm512_store_ps(out + (y * 6 + x) * plane + c, t[static_cast<std::size_t>(x)]);
      }
    }
  }
}

/// Where a block of outputs lies, and how much of it is within the map.
struct Place {
  std::int64_t first;  // offset of its first pixel in the output, in pixels
  std::int64_t rows, columns;
};

template <typename T, int Block>
QUADRAT_AVX512_FUNCTION void transform_back(const float* points, std::int64_t plane,
                                            const float* bias, std::int64_t channels,
                                            std::int64_t width, Place place, const T* addend,
                                            bool relu, T* out) {
  for (std::int64_t c = 0; c < channels; c += kLanes) {
    alignas(kAlignment) float columns[Block][kPatch][kLanes];
    __m512 m[6];
    __m512 o[Block];
    for (std::int64_t x = 0; x < 6; ++x) {
      for (std::int64_t y = 0; y < 6; ++y) {
        m[static_cast<std::size_t>(y)] = _mm512_load_ps(points + (y * 6 + x) * plane + c);
      }
      from_points<Block>(m, o);
      for (std::size_t y = 0; y < Block; ++y) _mm512_store_ps(columns[y][x], o[y]);
    }
    const __m512 constant = _mm512_loadu_ps(bias + c);
    for (std::int64_t y = 0; y < place.rows; ++y) {
      for (std::size_t x = 0; x < 6; ++x) m[x] = _mm512_load_ps(columns[y][x]);
      from_points<Block>(m, o);
      const std::int64_t row = (place.first + y * width) * channels + c;
      for (std::int64_t x = 0; x < place.columns; ++x) {
        __m512 value = _mm512_add_ps(o[static_cast<std::size_t>(x)], constant);
        if (addend != nullptr) value = _mm512_add_ps(value, load(addend + row + x * channels));
        if (relu) value = _mm512_max_ps(value, _mm512_setzero_ps());
        store(out + row + x * channels, value);
      }
    }
  }
}

/// out[Rows, 64] = in[Rows, channels] x panel[channels, 64]; rows `step_in` and `step_out` apart.
template <int Rows>
QUADRAT_AVX512_FUNCTION void multiply(const float* in, std::int64_t step_in, const float* panel,
                                      std::int64_t channels, float* out, std::int64_t step_out) {
  __m512 sums[Rows][4];
  for (auto& row : sums) {
    for (__m512& sum : row) sum = _mm512_setzero_ps();
  }
  for (std::int64_t k = 0; k < channels; ++k, panel += kPanel) {
    const __m512 b0 = _mm512_load_ps(panel), b1 = _mm512_load_ps(panel + kLanes);
    const __m512 b2 = _mm512_load_ps(panel + 2 * kLanes), b3 = _mm512_load_ps(panel + 3 * kLanes);
#pragma GCC unroll 6
    for (int r = 0; r < Rows; ++r) {
      const __m512 a = _mm512_set1_ps(in[r * step_in + k]);
      sums[r][0] = _mm512_fmadd_ps(a, b0, sums[r][0]);
      sums[r][1] = _mm512_fmadd_ps(a, b1, sums[r][1]);
      sums[r][2] = _mm512_fmadd_ps(a, b2, sums[r][2]);
      sums[r][3] = _mm512_fmadd_ps(a, b3, sums[r][3]);
    }
  }
#pragma GCC unroll 6
  for (int r = 0; r < Rows; ++r) {
    for (int v = 0; v < 4; ++v) _mm512_store_ps(out + r * step_out + v * kLanes, sums[r][v]);
  }
}

void multiply_rows(std::int64_t rows, const float* in, std::int64_t step_in, const float* panel,
                   std::int64_t channels, float* out, std::int64_t step_out) {
  const std::int64_t groups = (rows + kRows - 1) / kRows;
  for (std::int64_t g = 0, first = 0; g < groups; ++g) {
    const std::int64_t here = (rows - first + groups - g - 1) / (groups - g);
    const float* from = in + first * step_in;
    float* to = out + first * step_out;
    switch (here) {
      case 1:
        multiply<1>(from, step_in, panel, channels, to, step_out);
        break;
      case 2:
        multiply<2>(from, step_in, panel, channels, to, step_out);
        break;
      case 3:
        multiply<3>(from, step_in, panel, channels, to, step_out);
        break;
      case 4:
        multiply<4>(from, step_in, panel, channels, to, step_out);
        break;
      case 5:
        multiply<5>(from, step_in, panel, channels, to, step_out);
        break;
      default:
        multiply<6>(from, step_in, panel, channels, to, step_out);
        break;
    }
    first += here;
  }
}

/// 16 x 16 kernels of 3x3 or 5x5 taps to the 36 points, along both axes.
/// @param taps the first kernel's first 16 input channels: [16 outputs, Kernel, Kernel, ..]
/// @param step from output to output, `step_tap` from tap to tap @param is_turned taps from the
/// last
/// @param points [36, 16 outputs, 16 inputs]
template <int Kernel>
QUADRAT_AVX512_FUNCTION void transform_kernels(const float* taps, std::int64_t step,
                                               std::int64_t step_tap, bool is_turned,
                                               float* points) {
  const auto rows = kernel_transform(Kernel);
  for (std::int64_t k = 0; k < kLanes; ++k, taps += step) {
    __m512 half[kPatch][Kernel];
    for (std::size_t x = 0; x < Kernel; ++x) {
      for (auto& row : half) row[x] = _mm512_setzero_ps();
      for (std::size_t y = 0; y < Kernel; ++y) {
        const auto tap = static_cast<std::int64_t>(y * Kernel + x);
        const __m512 values = load(taps + (is_turned ? Kernel * Kernel - 1 - tap : tap) * step_tap);
        for (std::size_t i = 0; i < kPatch; ++i)
          half[i][x] = _mm512_fmadd_ps(all(rows[i][y]), values, half[i][x]);
      }
    }
    for (std::size_t i = 0; i < kPatch; ++i) {
      for (std::size_t j = 0; j < kPatch; ++j) {
        __m512 value = _mm512_mul_ps(all(rows[j][0]), half[i][0]);
        for (std::size_t x = 1; x < Kernel; ++x)
          value = _mm512_fmadd_ps(all(rows[j][x]), half[i][x], value);
        _mm512_store_ps(points + (static_cast<std::int64_t>(i * kPatch + j) * kLanes + k) * kLanes,
                        value);
      }
    }
  }
}

/// Column `column` of a [16, 16].
QUADRAT_AVX512_FUNCTION void copy_column(const float* square, std::int64_t column, float* to) {
  const __m512i rows =
      _mm512_mullo_epi32(_mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15),
                         _mm512_set1_epi32(static_cast<int>(kLanes)));
  _mm512_store_ps(to, _mm512_i32gather_ps(rows, square + column, sizeof(float)));
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
  const std::int64_t step = kernel * kernel * inputs;
  const auto transform_16 = kernel == 3 ? transform_kernels<3> : transform_kernels<5>;
  alignas(kAlignment) std::array<float, kPoints * kLanes * kLanes> points;
  for (std::int64_t k = 0; k < outputs; k += kLanes) {
    for (std::int64_t c = 0; c < inputs; c += kLanes) {
      transform_16(weight + k * step + c, step, inputs, is_turned, points.data());
      for (std::int64_t point = 0; point < kPoints; ++point) {
        const float* const square = points.data() + point * kLanes * kLanes;
        for (std::int64_t i = 0; i < kLanes; ++i) {
          if (is_turned) {
            std::copy_n(square + i * kLanes, kLanes, panel(point, c, k + i));
          } else {
            copy_column(square, i, panel(point, k, c + i));
          }
        }
      }
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
void WinogradConvolution::run(const T* in, Maps maps, const T* addend, bool relu, T* out) const {
#if QUADRAT_WINOGRAD
  const std::int64_t down = (maps.height + block_ - 1) / block_;
  const std::int64_t across = (maps.width + block_ - 1) / block_;
  const std::int64_t blocks = maps.count * down * across;
  const std::int64_t passes = (blocks + kMostBlocks - 1) / kMostBlocks;
  const std::int64_t most = (blocks + passes - 1) / passes;
  const std::int64_t plane_in = most * channels_in_ + kStagger;
  const std::int64_t plane_out = most * channels_out_ + kStagger;
  static thread_local AlignedBytes scratch;
  scratch.grow(static_cast<std::size_t>(kPoints * (plane_in + plane_out)) * sizeof(float));
  float* const points_in = reinterpret_cast<float*>(scratch.get());
  float* const points_out = points_in + kPoints * plane_in;
  alignas(kAlignment) static constexpr std::array<T, kMostChannels> kNothing{};

  for (std::int64_t first = 0; first < blocks; first += most) {
    const std::int64_t here = std::min(most, blocks - first);
    std::array<Place, kMostBlocks> places;
    for (std::int64_t b = 0; b < here; ++b) {
      const std::int64_t map = (first + b) / (down * across);
      const std::int64_t top = (first + b) / across % down * block_;
      const std::int64_t left = (first + b) % across * block_;
      places[static_cast<std::size_t>(b)] = {(map * maps.height + top) * maps.width + left,
                                             std::min(block_, maps.height - top),
                                             std::min(block_, maps.width - left)};
      std::array<const T*, kPoints> pixels;
      for (std::int64_t y = 0; y < kPatch; ++y) {
        for (std::int64_t x = 0; x < kPatch; ++x) {
          const std::int64_t row = top + y - padding_, column = left + x - padding_;
          const bool is_inside =
              row >= 0 && row < maps.height && column >= 0 && column < maps.width;
          pixels[static_cast<std::size_t>(y * kPatch + x)] =
              is_inside ? in + ((map * maps.height + row) * maps.width + column) * channels_in_
                        : kNothing.data();
        }
      }
      transform_patch(pixels, channels_in_, plane_in, points_in + b * channels_in_);
    }
    for (std::int64_t point = 0; point < kPoints; ++point) {
      for (std::int64_t k = 0; k < channels_out_; k += kPanel) {
        multiply_rows(here, points_in + point * plane_in, channels_in_, panel(point, k, 0),
                      channels_in_, points_out + point * plane_out + k, channels_out_);
      }
    }
    for (std::int64_t b = 0; b < here; ++b) {
      const Place& place = places[static_cast<std::size_t>(b)];
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

template void WinogradConvolution::run(const float*, Maps, const float*, bool, float*) const;
template void WinogradConvolution::run(const std::uint16_t*, Maps, const std::uint16_t*, bool,
                                       std::uint16_t*) const;

}  // namespace quadrat
