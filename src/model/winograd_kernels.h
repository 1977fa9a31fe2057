#pragma once

#include <array>
#include <cstdint>

#include "quadrat/base/aligned_bytes.h"
#include "quadrat/model/winograd.h"

#if defined(__x86_64__) && defined(__GNUC__)
#define QUADRAT_WINOGRAD 1
#include <immintrin.h>
#else
#define QUADRAT_WINOGRAD 0
#endif

/// What WinogradConvolution and its weights' gradient are made of. Vectors lie along channels.
namespace quadrat::winograd {

constexpr std::int64_t kPatch = 6;  // inputs a side that a block of outputs looks at
constexpr std::int64_t kPoints = kPatch * kPatch;
/// The points besides 0 and infinity are kA, -kA, kB and -kB: these round six times less than 1 and
/// 2 do (Alam et al., "Winograd Convolution for Deep Neural Networks: Efficient Point Selection",
/// 2022).
constexpr double kA = 0.70710678118654752;
constexpr double kB = 1.41421356237309505;
constexpr std::int64_t kLanes = 16;
constexpr std::int64_t kPanel = 4 * kLanes;   // columns of a product that are computed together
constexpr std::int64_t kRows = 6;             // and rows: 24 sums in 32 registers
constexpr std::int64_t kMostChannels = 4096;  // of zeros around a map
/// Between the 36 planes, so that a step from plane to plane does not fall on the same cache lines.
constexpr std::int64_t kStagger = kLanes;

constexpr std::size_t kAlignment = AlignedBytes::kAlignment;

/// Evaluates a kernel of `size` taps at the six points: row i holds a_i^j / prod_(k != i) (a_i -
/// a_k).
constexpr std::array<std::array<double, 5>, kPatch> kernel_transform(std::int64_t size) {
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

/// Maps in blocks of `side` x `side` outputs.
struct Grid {
  Grid(WinogradMaps of, std::int64_t side_of_block)
      : maps(of),
        side(side_of_block),
        down((of.height + side - 1) / side),
        across((of.width + side - 1) / side) {}

  struct Corner {
    std::int64_t map, row, column;
  };
  std::int64_t blocks() const { return maps.count * down * across; }
  Corner corner(std::int64_t block) const {
    return {block / (down * across), block / across % down * side, block % across * side};
  }

  WinogradMaps maps;
  std::int64_t side, down, across;
};

/// How many blocks a pass takes, `most` of them at the most and all passes alike. There has to be
/// one.
constexpr std::int64_t blocks_per_pass(std::int64_t blocks, std::int64_t most) {
  const std::int64_t passes = (blocks + most - 1) / most;
  return (blocks + passes - 1) / passes;
}

/// All channels of a pixel outside a map.
template <typename T>
alignas(AlignedBytes::kAlignment) inline constexpr std::array<T, kMostChannels> kNothing{};

/// The Side x Side pixels of all channels from `corner` on, zeros where there is no map.
template <std::size_t Side, typename T>
std::array<const T*, Side * Side> pixels_at(const T* in, WinogradMaps maps, std::int64_t channels,
                                            Grid::Corner corner) {
  std::array<const T*, Side * Side> pixels;
  for (std::size_t i = 0; i < pixels.size(); ++i) {
    const std::int64_t row = corner.row + static_cast<std::int64_t>(i / Side);
    const std::int64_t column = corner.column + static_cast<std::int64_t>(i % Side);
    const bool is_inside = row >= 0 && row < maps.height && column >= 0 && column < maps.width;
    pixels[i] = is_inside ? in + ((corner.map * maps.height + row) * maps.width + column) * channels
                          : kNothing<T>.data();
  }
  return pixels;
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

/// To the nearest bf16, ties to even. What came of computing and is no number stays none.
QUADRAT_AVX512 void store(std::uint16_t* at, __m512 values) {
  const __m512i bits = _mm512_castps_si512(values);
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
  const __m512i rounded = _mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff)), odd);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(at),
                      _mm512_cvtepi32_epi16(_mm512_srli_epi32(rounded, 16)));
}

QUADRAT_AVX512 __m512 all(double value) { return _mm512_set1_ps(static_cast<float>(value)); }

/// x a + y b
QUADRAT_AVX512 __m512 mix(double x, __m512 a, double y, __m512 b) {
  return _mm512_fmadd_ps(all(y), b, _mm512_mul_ps(all(x), a));
}

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

/// Gradients of a block's four outputs along one axis to those of the six points: the adjoint of
/// from_points.
QUADRAT_AVX512 void to_points(const __m512 (&o)[4], __m512 (&m)[6]) {
  const __m512 even_a = _mm512_fmadd_ps(all(kA * kA), o[2], o[0]);
  const __m512 even_b = _mm512_fmadd_ps(all(kB * kB), o[2], o[0]);
  const __m512 odd_a = mix(kA, o[1], kA * kA * kA, o[3]);
  const __m512 odd_b = mix(kB, o[1], kB * kB * kB, o[3]);
  m[0] = o[0];
  m[1] = _mm512_add_ps(even_a, odd_a);
  m[2] = _mm512_sub_ps(even_a, odd_a);
  m[3] = _mm512_add_ps(even_b, odd_b);
  m[4] = _mm512_sub_ps(even_b, odd_b);
  m[5] = o[3];
}

/// And of its two, where blocks have two.
QUADRAT_AVX512 void to_points(const __m512 (&o)[2], __m512 (&m)[6]) {
  m[0] = o[0];
  m[1] = _mm512_fmadd_ps(all(kA), o[1], o[0]);
  m[2] = _mm512_fnmadd_ps(all(kA), o[1], o[0]);
  m[3] = _mm512_fmadd_ps(all(kB), o[1], o[0]);
  m[4] = _mm512_fnmadd_ps(all(kB), o[1], o[0]);
  m[5] = o[1];
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

/// Where the 36 rows of a patch go: from point to point `plane` floats on, and from 64 channels to
/// the next `panel`.
struct PointRows {
  float* first;
  std::int64_t plane, panel;
};

/// A patch of all channels to the points along both axes: six pixels a side that a block of outputs
/// looks at, or the gradients of a block of 4 or 2.
template <std::size_t Side, typename T>
QUADRAT_AVX512_FUNCTION void transform_patch(const std::array<const T*, Side * Side>& pixels,
                                             std::int64_t channels, PointRows rows) {
  for (std::int64_t c = 0; c < channels; c += kLanes) {
    alignas(kAlignment) float columns[kPatch][Side][kLanes];
    __m512 d[Side], t[6];
    for (std::size_t x = 0; x < Side; ++x) {
      for (std::size_t y = 0; y < Side; ++y) d[y] = load(pixels[y * Side + x] + c);
      to_points(d, t);
      for (std::size_t y = 0; y < 6; ++y) _mm512_store_ps(columns[y][x], t[y]);
    }
    float* out = rows.first + c / kPanel * rows.panel + c % kPanel;
    for (const auto& row : columns) {
      for (std::size_t x = 0; x < Side; ++x) d[x] = _mm512_load_ps(row[x]);
      to_points(d, t);
      for (const __m512& values : t) {
        _mm512_store_ps(out, values);
        out += rows.plane;
      }
    }
  }
}

/// How much of a block of outputs is within its map.
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

/// A matrix whose element (row, k) is at[row * step + k * step_k].
struct Left {
  const float* at;
  std::int64_t step, step_k;
};

/// out[Rows, 64] = left[Rows, count] x panel[count, 64], or with `adds` that much more than it was;
/// rows of `out` are `step_out` apart.
template <int Rows>
QUADRAT_AVX512_FUNCTION void multiply(Left left, const float* panel, std::int64_t count, bool adds,
                                      float* out, std::int64_t step_out) {
  __m512 sums[Rows][4];
#pragma GCC unroll 6
  for (int r = 0; r < Rows; ++r) {
    for (int v = 0; v < 4; ++v) {
      sums[r][v] = adds ? _mm512_load_ps(out + r * step_out + v * kLanes) : _mm512_setzero_ps();
    }
  }
  const float* in = left.at;
  for (std::int64_t k = 0; k < count; ++k, panel += kPanel, in += left.step_k) {
    const __m512 b0 = _mm512_load_ps(panel), b1 = _mm512_load_ps(panel + kLanes);
    const __m512 b2 = _mm512_load_ps(panel + 2 * kLanes), b3 = _mm512_load_ps(panel + 3 * kLanes);
#pragma GCC unroll 6
    for (int r = 0; r < Rows; ++r) {
      const __m512 a = _mm512_set1_ps(in[r * left.step]);
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

/// The same for any number of rows.
inline void multiply_rows(std::int64_t rows, Left left, const float* panel, std::int64_t count,
                          bool adds, float* out, std::int64_t step_out) {
  constexpr std::array kMultiply{multiply<1>, multiply<2>, multiply<3>,
                                 multiply<4>, multiply<5>, multiply<6>};
  static_assert(kMultiply.size() == kRows);
  for (std::int64_t groups = (rows + kRows - 1) / kRows; groups > 0; --groups) {
    const std::int64_t here = (rows + groups - 1) / groups;
    kMultiply[static_cast<std::size_t>(here - 1)](left, panel, count, adds, out, step_out);
    left.at += here * left.step;
    out += here * step_out;
    rows -= here;
  }
}

#endif  // QUADRAT_WINOGRAD

}  // namespace quadrat::winograd
