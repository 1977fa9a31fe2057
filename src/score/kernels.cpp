#include "kernels.h"

#include <algorithm>
#include <bit>
#include <cstring>

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

// Plain functions, since a template cannot be cloned. Each is the maximum of two rows of channels.

#define QUADRAT_MAX_ROW(name, T)                                                          \
  QUADRAT_VECTOR_CLONES void name(const T* __restrict in, std::int64_t channels,          \
                                  T* __restrict out) {                                    \
    for (std::int64_t c = 0; c < channels; ++c) out[c] = in[c] > out[c] ? in[c] : out[c]; \
  }
QUADRAT_MAX_ROW(max_row_i32, std::int32_t)
QUADRAT_MAX_ROW(max_row_i16, std::int16_t)
QUADRAT_MAX_ROW(max_row_u8, std::uint8_t)
#undef QUADRAT_MAX_ROW

void max_row(const std::int32_t* in, std::int64_t channels, std::int32_t* out) {
  max_row_i32(in, channels, out);
}
void max_row(const std::int16_t* in, std::int64_t channels, std::int16_t* out) {
  max_row_i16(in, channels, out);
}
void max_row(const std::uint8_t* in, std::int64_t channels, std::uint8_t* out) {
  max_row_u8(in, channels, out);
}

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

template <typename T>
void look_up_pixels(const std::uint8_t* in, std::int64_t pixels, const PixelTable<T>& table,
                    T* out) {
  for (std::int64_t p = 0; p < pixels; ++p) {
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
void max_pool(const T* in, const PoolShape& s, T* out) {
  const auto row_bytes = static_cast<std::size_t>(s.channels) * sizeof(T);
  for (std::int64_t oy = 0; oy < s.out_height(); ++oy) {
    const std::int64_t top = std::max<std::int64_t>(0, oy * s.stride - s.padding);
    const std::int64_t bottom = std::min(s.height, oy * s.stride - s.padding + s.kernel);
    for (std::int64_t ox = 0; ox < s.out_width(); ++ox) {
      const std::int64_t left = std::max<std::int64_t>(0, ox * s.stride - s.padding);
      const std::int64_t right = std::min(s.width, ox * s.stride - s.padding + s.kernel);
      T* to = out + (oy * s.out_width() + ox) * s.channels;
      std::memcpy(to, in + (top * s.width + left) * s.channels, row_bytes);
      for (std::int64_t y = top; y < bottom; ++y) {
        for (std::int64_t x = left + (y == top ? 1 : 0); x < right; ++x) {
          max_row(in + (y * s.width + x) * s.channels, s.channels, to);
        }
      }
    }
  }
}
template void max_pool(const std::int32_t*, const PoolShape&, std::int32_t*);
template void max_pool(const std::int16_t*, const PoolShape&, std::int16_t*);
template void max_pool(const std::uint8_t*, const PoolShape&, std::uint8_t*);

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
