// The kernels' source, included by one file for each generation of vector registers (vectors.h).
#include <immintrin.h>

#include "vectors.h"
#include "winograd_parts.h"

namespace quadrat::winograd::QUADRAT_VECTORS {

namespace {

using namespace vectors::QUADRAT_VECTORS;

/// Of a product: 6 rows of 4 vectors of columns are 24 sums in 32 registers, of 2 are 12 in 16.
constexpr int kRows = 6;
#ifdef __AVX512F__
constexpr int kVectors = 4;
#else
constexpr int kVectors = 2;
#endif
constexpr std::int64_t kPanel = kVectors * kLanes;

using Floats = Vector<float>;
using Ints = Vector<std::int32_t>;
using Shorts = Vector<std::int16_t>;

/// The points besides 0 and infinity are kA, -kA, kB and -kB: these round six times less than 1 and
/// 2 do (Alam et al., "Winograd Convolution for Deep Neural Networks: Efficient Point Selection",
/// 2022).
constexpr double kA = 0.70710678118654752;
constexpr double kB = 1.41421356237309505;

constexpr float a1 = static_cast<float>(kA), a2 = static_cast<float>(kA * kA),
                a3 = static_cast<float>(kA * kA * kA);
constexpr float b1 = static_cast<float>(kB), b2 = static_cast<float>(kB * kB),
                b3 = static_cast<float>(kB * kB * kB);
constexpr float a2b2 = static_cast<float>(kA * kA * kB * kB);
constexpr float sum2 = static_cast<float>(kA * kA + kB * kB);

/// Evaluates a kernel of `size` taps at the six points: row i holds a_i^j / prod_(k != i) (a_i -
/// a_k).
struct KernelTransform {
  constexpr explicit KernelTransform(int size) {
    constexpr double kAt[]{0, kA, -kA, kB, -kB};
    for (int i = 0; i < 5; ++i) {
      double factor = 1;
      for (int k = 0; k < 5; ++k) {
        if (k != i) factor /= kAt[i] - kAt[k];
      }
      for (int j = 0; j < size; ++j, factor *= kAt[i]) rows[i][j] = static_cast<float>(factor);
    }
    rows[kPatch - 1][size - 1] = 1;  // infinity: the leading coefficient
  }

  float rows[kPatch][5]{};
};

/// Six values a patch along one axis, to the six points.
QUADRAT_INLINE void to_points(const Floats (&d)[6], Floats (&t)[6]) {
  const Floats even_a = d[4] - b2 * d[2], odd_a = d[3] - b2 * d[1];
  const Floats even_b = d[4] - a2 * d[2], odd_b = d[3] - a2 * d[1];
  t[0] = (a2b2 * d[0] + d[4]) - sum2 * d[2];
  t[1] = even_a + a1 * odd_a;
  t[2] = even_a - a1 * odd_a;
  t[3] = even_b + b1 * odd_b;
  t[4] = even_b - b1 * odd_b;
  t[5] = (a2b2 * d[1] + d[5]) - sum2 * d[3];
}

/// kA and kB to the power of an output's place in its block.
constexpr float kPowersA[]{1, a1, a2, a3, a2* a2};
constexpr float kPowersB[]{1, b1, b2, b3, b2* b2};

/// Gradients of a block's outputs along one axis to those of the six points: the adjoint of
/// from_points.
template <int Block>
QUADRAT_INLINE void to_points(const Floats (&o)[Block], Floats (&m)[6]) {
  Floats even_a = o[0], even_b = o[0], odd_a = a1 * o[1], odd_b = b1 * o[1];
#pragma GCC unroll 3
  for (int k = 2; k < Block; ++k) {
    (k % 2 == 0 ? even_a : odd_a) += kPowersA[k] * o[k];
    (k % 2 == 0 ? even_b : odd_b) += kPowersB[k] * o[k];
  }
  m[0] = o[0];
  m[1] = even_a + odd_a;
  m[2] = even_a - odd_a;
  m[3] = even_b + odd_b;
  m[4] = even_b - odd_b;
  m[5] = o[Block - 1];
}

/// From the six points to a block's outputs along one axis.
template <int Block>
QUADRAT_INLINE void from_points(const Floats (&m)[6], Floats (&o)[Block]) {
  const Floats even_a = m[1] + m[2], odd_a = m[1] - m[2];
  const Floats even_b = m[3] + m[4], odd_b = m[3] - m[4];
  o[0] = m[0] + (even_a + even_b);
#pragma GCC unroll 4
  for (int k = 1; k < Block; ++k) {
    o[k] = k % 2 == 0 ? kPowersA[k] * even_a + kPowersB[k] * even_b
                      : kPowersA[k] * odd_a + kPowersB[k] * odd_b;
  }
  o[Block - 1] += m[5];
}

QUADRAT_INLINE Floats gathered(const float* from, std::int64_t step) {
  const int s = static_cast<int>(step);
#ifdef __AVX512F__
  const __m512i lanes =
      _mm512_mullo_epi32(_mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15),
                         _mm512_set1_epi32(s));
  return _mm512_i32gather_ps(lanes, from, sizeof(float));
#else
  const __m256i lanes =
      _mm256_mullo_epi32(_mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7), _mm256_set1_epi32(s));
  return _mm256_i32gather_ps(from, lanes, sizeof(float));
#endif
}

template <int Size>
void kernels_to_points(const float* const* taps, std::int64_t step, float* points,
                       std::int64_t plane) {
  static constexpr KernelTransform transform(Size);
  Floats half[kPatch][Size]{};
  for (int y = 0; y < Size; ++y) {
    for (int x = 0; x < Size; ++x, ++taps) {
      if (*taps == nullptr) continue;
      const Floats values = step == 1 ? load(*taps) : gathered(*taps, step);
      for (int i = 0; i < kPatch; ++i) half[i][x] += transform.rows[i][y] * values;
    }
  }
  for (const auto& row : half) {
    for (int j = 0; j < kPatch; ++j, points += plane) {
      Floats value = transform.rows[j][0] * row[0];
      for (int x = 1; x < Size; ++x) value += transform.rows[j][x] * row[x];
      write(points, value);
    }
  }
}

template <int Size>
void points_to_kernels(const float* points, std::int64_t plane, float* const* taps) {
  static constexpr KernelTransform transform(Size);
  Floats half[Size][kPatch]{};
  for (int x = 0; x < kPatch; ++x) {
    for (int y = 0; y < kPatch; ++y) {
      const Floats values = read<Floats>(points + (y * kPatch + x) * plane);
      for (int i = 0; i < Size; ++i) half[i][x] += transform.rows[y][i] * values;
    }
  }
  for (const auto& row : half) {
    for (int j = 0; j < Size; ++j, ++taps) {
      Floats value = transform.rows[0][j] * row[0];
      for (int x = 1; x < kPatch; ++x) value += transform.rows[x][j] * row[x];
      if (*taps != nullptr) write(*taps, value);
    }
  }
}

template <int Side, typename T>
void patch_to_points(const T* const* pixels, std::int64_t channels, PointRows rows) {
  for (std::int64_t c = 0; c < channels; c += kLanes) {
    Floats columns[kPatch][Side], d[Side], t[6];
    for (int x = 0; x < Side; ++x) {
      for (int y = 0; y < Side; ++y) d[y] = load(pixels[y * Side + x] + c);
      to_points(d, t);
      for (int y = 0; y < kPatch; ++y) columns[y][x] = t[y];
    }
    float* out = rows.first + c / kPanel * rows.panel + c % kPanel;
    for (const auto& row : columns) {
      to_points(row, t);
      for (const Floats& values : t) {
        write(out, values);
        out += rows.plane;
      }
    }
  }
}

template <int Side, typename T>
void points_to_block(const float* points, std::int64_t plane, const float* bias,
                     std::int64_t channels, std::int64_t width, Place place, const T* addend,
                     bool relu, T* out) {
  for (std::int64_t c = 0; c < channels; c += kLanes, points += kLanes) {
    // Unknown to the compiler, which else computes 36 addresses ahead and has no registers for
    // them.
    asm("" : "+r"(plane));
    Floats columns[Side][kPatch], m[6], o[Side];
    const float* column = points;
    for (int x = 0; x < kPatch; ++x, column += plane) {
      const float* at = column;
      for (int y = 0; y < kPatch; ++y, at += kPatch * plane) m[y] = read<Floats>(at);
      from_points(m, o);
      for (int y = 0; y < Side; ++y) columns[y][x] = o[y];
    }
    const Floats constant = read<Floats>(bias + c);
    for (std::int64_t y = 0; y < place.rows; ++y) {
      from_points(columns[y], o);
      const std::int64_t row = (place.first + y * width) * channels + c;
#pragma GCC unroll 5
      for (std::int64_t x = 0; x < Side; ++x) {
        if (x >= place.columns) break;
        Floats value = o[x] + constant;
        if (addend != nullptr) value += load(addend + row + x * channels);
        if (relu) value = rectified(value);
        store(out + row + x * channels, value);
      }
    }
  }
}

/// `times` groups of Rows rows.
template <int Rows>
void multiply(std::int64_t times, Left left, const float* panel, std::int64_t count, bool adds,
              float* out, std::int64_t step_out) {
  for (; times > 0; --times, left.at += Rows * left.step, out += Rows * step_out) {
    Floats sums[Rows][kVectors]{};
    const float* in = left.at;
    const float* weights = panel;
    for (std::int64_t k = 0; k < count; ++k, weights += kPanel, in += left.step_k) {
      Floats columns[kVectors];
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) columns[v] = read<Floats>(weights + v * kLanes);
#pragma GCC unroll 6
      for (int r = 0; r < Rows; ++r) {
        const float row = in[r * left.step];
#pragma GCC unroll 4
        for (int v = 0; v < kVectors; ++v) sums[r][v] += row * columns[v];
      }
    }
#pragma GCC unroll 6
    for (int r = 0; r < Rows; ++r) {
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) {
        float* const to = out + r * step_out + v * kLanes;
        // Not begun with: a sum of few rounds less than one that goes on.
        write(to, adds ? read<Floats>(to) + sums[r][v] : sums[r][v]);
      }
    }
  }
}

/// Calls call(size, times) for groups of up to kRows rows, all alike but for one.
template <typename Call>
QUADRAT_INLINE void in_groups(std::int64_t rows, Call call) {
  const std::int64_t groups = (rows + kRows - 1) / kRows;
  const std::int64_t size = rows / groups, larger = rows % groups;
  if (larger > 0) call(size + 1, larger);
  call(size, groups - larger);
}

void multiply_rows(std::int64_t rows, Left left, const float* panel, std::int64_t count, bool adds,
                   float* out, std::int64_t step_out) {
  static constexpr decltype(&multiply<1>) kMultiply[]{multiply<1>, multiply<2>, multiply<3>,
                                                      multiply<4>, multiply<5>, multiply<6>};
  static_assert(sizeof kMultiply / sizeof *kMultiply == kRows);
  in_groups(rows, [&](std::int64_t size, std::int64_t times) {
    kMultiply[size - 1](times, left, panel, count, adds, out, step_out);
    left.at += size * times * left.step;
    out += size * times * step_out;
  });
}

QUADRAT_INLINE std::int32_t largest_of(Ints values) {
#ifdef __AVX512F__
  return _mm512_reduce_max_epi32(reinterpret_cast<__m512i>(values));
#else
  const Ints halves = __builtin_shufflevector(values, values, 4, 5, 6, 7, 0, 1, 2, 3);
  values = values > halves ? values : halves;
  const Ints pairs = __builtin_shufflevector(values, values, 2, 3, 0, 1, 6, 7, 4, 5);
  values = values > pairs ? values : pairs;
  return values[0] > values[1] ? values[0] : values[1];
#endif
}

/// To the nearest integer, ties to even, in the low 16 bits; of values below 2^22.
QUADRAT_INLINE Ints rounded(Floats values) {
  constexpr float kUnitsInLastPlace = 0x1.8p23F;
  return __builtin_bit_cast(Ints, values + kUnitsInLastPlace);
}

void round_rows(std::int64_t rows, const float* from, std::int64_t step, std::int64_t count,
                std::int16_t* out, std::int64_t step_out, float* scales, std::int64_t step_scales) {
  for (; rows > 0; --rows, from += step, out += step_out, scales += step_scales) {
    // Without their signs, floats are in the order of their bits, infinity and what is no number
    // behind all others.
    Ints most{};
    for (std::int64_t i = 0; i < count; i += kLanes) {
      const Ints bits = read<Ints>(from + i) & 0x7fffffff;
      most = bits > most ? bits : most;
    }
    const auto largest = __builtin_bit_cast(float, largest_of(most));
    constexpr float kNothing = 1e-30F;  // the inverse has to be finite
    const float factor = largest < kNothing ? 0 : kMostRounded / largest;
    *scales = largest * (1 / kMostRounded);
    for (std::int64_t i = 0; i < count; i += kLanes) {
      const Ints integers = rounded(read<Floats>(from + i) * factor);
      write(out + i, __builtin_convertvector(integers, Shorts));
    }
  }
}

void round_panel(const float* panel, std::int64_t channels, std::int16_t* out, float* scales) {
  for (int v = 0; v < kVectors; ++v) {
    const float* const column = panel + v * kLanes;
    Floats sum{}, most{};
    for (std::int64_t c = 0; c < channels; ++c) {
      const Floats value = read<Floats>(column + c * kPanel);
      const Floats magnitude = value < 0 ? -value : value;
      sum += magnitude;
      most = magnitude > most ? magnitude : most;
    }
    const Floats by_sum = sum / kMostSum, by_most = most / kMostWeight;
    const Floats scale = by_sum <= by_most ? by_most : by_sum;  // what is no number stays none
    const Floats factor = scale > 0 ? 1 / scale : Floats{};
    write(scales + v * kLanes, scale);
    for (std::int64_t c = 0; c < channels; c += 2) {
      const Ints low = rounded(read<Floats>(column + c * kPanel) * factor) & 0xffff;
      const Ints high = rounded(read<Floats>(column + (c + 1) * kPanel) * factor) << 16;
      write(out + c * kPanel + 2 * v * kLanes, low | high);
    }
  }
}

/// sum += the products of pairs, each pair's added up
QUADRAT_INLINE void add_products(Ints& sum, Ints pairs, Ints by) {
#ifdef __AVX512F__
  const auto products = reinterpret_cast<Ints>(
      _mm512_madd_epi16(reinterpret_cast<__m512i>(pairs), reinterpret_cast<__m512i>(by)));
#else
  const auto products = reinterpret_cast<Ints>(
      _mm256_madd_epi16(reinterpret_cast<__m256i>(pairs), reinterpret_cast<__m256i>(by)));
#endif
  // Not `sum += products`: GCC gathers the products of many rows before it adds the first, more of
  // them than there are registers.
  asm("vpaddd %1, %0, %0" : "+v"(sum) : "v"(products));
}

template <int Rows>
void multiply_rounded(std::int64_t times, RoundedLeft left, const std::int16_t* panel,
                      const float* scales, std::int64_t pairs, bool adds, float* out,
                      std::int64_t step_out) {
  for (; times > 0; --times) {
    Ints sums[Rows][kVectors]{};
    const std::int16_t* in = left.at;
    const std::int16_t* weights = panel;
    for (std::int64_t k = 0; k < pairs; ++k, weights += 2 * kPanel, in += 2) {
      Ints columns[kVectors];
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) columns[v] = read<Ints>(weights + 2 * v * kLanes);
#pragma GCC unroll 6
      for (int r = 0; r < Rows; ++r) {
        const Ints row = Ints{} + read<std::int32_t>(in + r * left.step);
#pragma GCC unroll 4
        for (int v = 0; v < kVectors; ++v) add_products(sums[r][v], row, columns[v]);
      }
    }
#pragma GCC unroll 6
    for (int r = 0; r < Rows; ++r) {
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) {
        float* const to = out + r * step_out + v * kLanes;
        const Floats scale = left.scales[r] * read<Floats>(scales + v * kLanes);
        Floats value = __builtin_convertvector(sums[r][v], Floats) * scale;
        // Not to be contracted with the addition, which GCC does for some numbers of rows.
        asm("" : "+v"(value));
        write(to, adds ? read<Floats>(to) + value : value);
      }
    }
    left.at += Rows * left.step;
    left.scales += Rows;
    out += Rows * step_out;
  }
}

void multiply_rounded_rows(std::int64_t rows, RoundedLeft left, const std::int16_t* panel,
                           const float* scales, std::int64_t pairs, bool adds, float* out,
                           std::int64_t step_out) {
  static constexpr decltype(&multiply_rounded<1>) kMultiply[]{
      multiply_rounded<1>, multiply_rounded<2>, multiply_rounded<3>,
      multiply_rounded<4>, multiply_rounded<5>, multiply_rounded<6>};
  static_assert(sizeof kMultiply / sizeof *kMultiply == kRows);
  in_groups(rows, [&](std::int64_t size, std::int64_t times) {
    kMultiply[size - 1](times, left, panel, scales, pairs, adds, out, step_out);
    left.at += size * times * left.step;
    left.scales += size * times;
    out += size * times * step_out;
  });
}

/// Calls call(std::integral_constant<int, size>).
template <typename Call>
QUADRAT_INLINE void with_size(std::int64_t size, Call call) {
  switch (size) {
    case 2:
      return call(std::integral_constant<int, 2>());
    case 3:
      return call(std::integral_constant<int, 3>());
    case 4:
      return call(std::integral_constant<int, 4>());
    default:
      return call(std::integral_constant<int, 5>());
  }
}

void any_kernels_to_points(std::int64_t size, const float* const* taps, std::int64_t step,
                           float* points, std::int64_t plane) {
  with_size(size,
            [=](auto of) { kernels_to_points<decltype(of)::value>(taps, step, points, plane); });
}

void points_to_any_kernels(std::int64_t size, const float* points, std::int64_t plane,
                           float* const* taps) {
  with_size(size, [=](auto of) { points_to_kernels<decltype(of)::value>(points, plane, taps); });
}

template <typename T>
void any_patch_to_points(const T* const* pixels, std::int64_t side, std::int64_t channels,
                         PointRows rows) {
  if (side == kPatch) return patch_to_points<kPatch>(pixels, channels, rows);
  with_size(side, [=](auto of) { patch_to_points<decltype(of)::value>(pixels, channels, rows); });
}

template <typename T>
void points_to_any_block(const float* points, std::int64_t plane, std::int64_t side,
                         const float* bias, std::int64_t channels, std::int64_t width, Place place,
                         const T* addend, bool relu, T* out) {
  with_size(side, [=](auto of) {
    points_to_block<decltype(of)::value>(points, plane, bias, channels, width, place, addend, relu,
                                         out);
  });
}

}  // namespace

template <typename T>
Kernels<T> kernels() {
  return {kLanes,
          kPanel,
          any_kernels_to_points,
          any_patch_to_points<T>,
          multiply_rows,
          round_rows,
          round_panel,
          multiply_rounded_rows,
          points_to_any_block<T>,
          points_to_any_kernels};
}
template Kernels<float> kernels();
template Kernels<std::uint16_t> kernels();

}  // namespace quadrat::winograd::QUADRAT_VECTORS
