#include "kernels.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <type_traits>
#include <vector>

#include "quadrat/base/cpu.h"

#if defined(__x86_64__) && defined(__GNUC__)
#define QUADRAT_VBMI 1
#include <immintrin.h>
#else
#define QUADRAT_VBMI 0
#endif

// Compiled once for each generation of vector registers, the best chosen when the program is
// loaded.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && \
    !defined(__SANITIZE_ADDRESS__)
#define QUADRAT_VECTOR_CLONES \
  __attribute__((target_clones("arch=skylake-avx512", "avx2", "default")))
#else
#define QUADRAT_VECTOR_CLONES
#endif

namespace quadrat::score {

namespace {

// Plain functions, since a template cannot be cloned. The maximum of two rows, and of `kernel`
// neighbouring pixels each.

#define QUADRAT_MAX(name, T)                                                                  \
  QUADRAT_VECTOR_CLONES void name##_rows(const T* __restrict in, std::int64_t count,          \
                                         T* __restrict out) {                                 \
    for (std::int64_t i = 0; i < count; ++i) out[i] = in[i] > out[i] ? in[i] : out[i];        \
  }                                                                                           \
  QUADRAT_VECTOR_CLONES void name##_columns(const T* __restrict in, std::int64_t pixels,      \
                                            std::int64_t step, std::int64_t kernel,           \
                                            std::int64_t channels, T* __restrict out) {       \
    for (std::int64_t p = 0; p < pixels; ++p, in += step * channels, out += channels) {       \
      for (std::int64_t c = 0; c < channels; ++c)                                             \
        out[c] = in[c] > in[channels + c] ? in[c] : in[channels + c];                         \
      for (std::int64_t x = 2; x < kernel; ++x) {                                             \
        const T* const at = in + x * channels;                                                \
        for (std::int64_t c = 0; c < channels; ++c) out[c] = at[c] > out[c] ? at[c] : out[c]; \
      }                                                                                       \
    }                                                                                         \
  }
QUADRAT_MAX(max_i32, std::int32_t)
QUADRAT_MAX(max_i16, std::int16_t)
QUADRAT_MAX(max_u8, std::uint8_t)
#undef QUADRAT_MAX

template <typename T>
struct Max;
template <>
struct Max<std::int32_t> {
  static constexpr auto kRows = max_i32_rows;
  static constexpr auto kColumns = max_i32_columns;
};
template <>
struct Max<std::int16_t> {
  static constexpr auto kRows = max_i16_rows;
  static constexpr auto kColumns = max_i16_columns;
};
template <>
struct Max<std::uint8_t> {
  static constexpr auto kRows = max_u8_rows;
  static constexpr auto kColumns = max_u8_columns;
};

QUADRAT_VECTOR_CLONES void add_row(const float* __restrict in, std::int64_t channels,
                                   float* __restrict out) {
  for (std::int64_t c = 0; c < channels; ++c) out[c] += in[c];
}

QUADRAT_VECTOR_CLONES void add_row_bf16(const std::uint16_t* __restrict in, std::int64_t channels,
                                        float* __restrict out) {
  for (std::int64_t c = 0; c < channels; ++c) {
    out[c] += std::bit_cast<float>(static_cast<std::uint32_t>(in[c]) << 16);
  }
}

QUADRAT_VECTOR_CLONES void add_row_u8(const std::uint8_t* __restrict in, std::int64_t channels,
                                      float* __restrict out) {
  for (std::int64_t c = 0; c < channels; ++c) out[c] += static_cast<float>(in[c]);
}

QUADRAT_VECTOR_CLONES void scale_row(float factor, std::int64_t channels, float* out) {
  for (std::int64_t c = 0; c < channels; ++c) out[c] *= factor;
}

template <typename T, typename AddRow>
void mean_of(const T* in, std::int64_t positions, std::int64_t channels, float scale, float* out,
             AddRow add) {
  std::fill_n(out, channels, 0.0F);
  for (std::int64_t p = 0; p < positions; ++p) add(in + p * channels, channels, out);
  scale_row(scale / static_cast<float>(positions), channels, out);
}

}  // namespace

#if QUADRAT_VBMI
namespace {

/// 64 bytes at a time, each from the table of its channel.
__attribute__((target("avx512f,avx512bw,avx512vbmi"))) void look_up_bytes(
    const std::uint8_t* in, std::int64_t blocks, const PixelTable<std::uint8_t>& table,
    std::uint8_t* out) {
  __m512i parts[3][4];
  for (std::size_t c = 0; c < 3; ++c) {
    for (std::size_t i = 0; i < 4; ++i) parts[c][i] = _mm512_loadu_si512(table[c].data() + 64 * i);
  }
  // Every third byte is of the first channel, and of the second; each third vector is alike.
  constexpr std::uint64_t kEveryThird = 0x9249249249249249;
  for (std::int64_t block = 0; block < blocks; ++block) {
    for (unsigned v = 0; v < 3; ++v, in += 64, out += 64) {
      const __m512i bytes = _mm512_loadu_si512(in);
      const __mmask64 upper = _mm512_movepi8_mask(bytes);
      __m512i found[3];
      for (std::size_t c = 0; c < 3; ++c) {
        found[c] =
            _mm512_mask_blend_epi8(upper, _mm512_permutex2var_epi8(parts[c][0], bytes, parts[c][1]),
                                   _mm512_permutex2var_epi8(parts[c][2], bytes, parts[c][3]));
      }
      // 64 v + lane is 0, 1 or 2 modulo 3.
      const __mmask64 is_first = kEveryThird << (3 - v) % 3;
      const __mmask64 is_second = kEveryThird << (4 - v) % 3;
      const __m512i both = _mm512_mask_blend_epi8(is_first, found[2], found[0]);
      _mm512_storeu_si512(out, _mm512_mask_blend_epi8(is_second, both, found[1]));
    }
  }
}

bool has_vbmi() {
  static const bool has = cpu_features().avx512 && __builtin_cpu_supports("avx512vbmi") != 0;
  return has;
}

}  // namespace
#endif

template <typename T>
void look_up_pixels(const std::uint8_t* in, std::int64_t pixels, const PixelTable<T>& table,
                    T* out) {
  std::int64_t done = 0;
#if QUADRAT_VBMI
  if constexpr (std::is_same_v<T, std::uint8_t>) {
    if (has_vbmi()) {
      look_up_bytes(in, pixels / 64, table, out);
      done = pixels / 64 * 64;
    }
  }
#endif
  for (std::int64_t p = done; p < pixels; ++p) {
    out[3 * p] = table[0][in[3 * p]];
    out[3 * p + 1] = table[1][in[3 * p + 1]];
    out[3 * p + 2] = table[2][in[3 * p + 2]];
  }
}
template void look_up_pixels(const std::uint8_t*, std::int64_t, const PixelTable<float>&, float*);
template void look_up_pixels(const std::uint8_t*, std::int64_t, const PixelTable<std::uint16_t>&,
                             std::uint16_t*);
template void look_up_pixels(const std::uint8_t*, std::int64_t, const PixelTable<std::uint8_t>&,
                             std::uint8_t*);

template <typename T>
void max_pool(const T* in, const PoolShape& s, std::int64_t first, std::int64_t last,
              std::int64_t in_first, T* out) {
  const std::int64_t row = s.width * s.channels;
  // The maximum over the window's rows, between columns of zeros.
  std::vector<T> line(static_cast<std::size_t>((s.width + 2 * s.padding) * s.channels));
  T* const inside = line.data() + s.padding * s.channels;
  for (std::int64_t y = first; y < last; ++y) {
    const std::int64_t top = std::max<std::int64_t>(0, y * s.stride - s.padding);
    const std::int64_t bottom = std::min(s.height, y * s.stride - s.padding + s.kernel);
    const T* from = in + (top - in_first) * row;
    std::memcpy(inside, from, static_cast<std::size_t>(row) * sizeof(T));
    for (std::int64_t i = top + 1; i < bottom; ++i) Max<T>::kRows(from += row, row, inside);
    Max<T>::kColumns(line.data(), s.out_width(), s.stride, s.kernel, s.channels, out);
    out += s.out_width() * s.channels;
  }
}
template void max_pool(const std::int32_t*, const PoolShape&, std::int64_t, std::int64_t,
                       std::int64_t, std::int32_t*);
template void max_pool(const std::int16_t*, const PoolShape&, std::int64_t, std::int64_t,
                       std::int64_t, std::int16_t*);
template void max_pool(const std::uint8_t*, const PoolShape&, std::int64_t, std::int64_t,
                       std::int64_t, std::uint8_t*);

void mean_over_positions(const float* in, std::int64_t positions, std::int64_t channels,
                         float* out) {
  mean_of(in, positions, channels, 1.0F, out, add_row);
}

void mean_over_positions_bf16(const std::uint16_t* in, std::int64_t positions,
                              std::int64_t channels, float* out) {
  mean_of(in, positions, channels, 1.0F, out, add_row_bf16);
}

void mean_over_positions_u8(const std::uint8_t* in, std::int64_t positions, std::int64_t channels,
                            float scale, float* out) {
  mean_of(in, positions, channels, scale, out, add_row_u8);
}

Extremes extremes(const float* values, std::int64_t count) {
  Extremes found;
  for (std::int64_t i = 0; i < count; ++i) {
    found.low = values[i] < found.low ? values[i] : found.low;
    found.high = values[i] > found.high ? values[i] : found.high;
  }
  return found;
}

}  // namespace quadrat::score
