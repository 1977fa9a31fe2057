#include "filters.h"

#include <array>
#include <cstdlib>
#include <cstring>

#if defined(__x86_64__) && defined(__GNUC__)
#define QUADRAT_PNG_X86 1
#include <immintrin.h>
#else
#define QUADRAT_PNG_X86 0
#endif

namespace quadrat::png {

namespace {

constexpr std::size_t kPixelBytes = 3;

/// The neighbour nearest to left + above - corner; on ties left, then above, then corner.
inline std::uint8_t paeth(int left, int above, int corner) {
  const int to_left = std::abs(above - corner);
  const int to_above = std::abs(left - corner);
  const int to_corner = std::abs(left + above - 2 * corner);
  if (to_left <= to_above && to_left <= to_corner) return static_cast<std::uint8_t>(left);
  return static_cast<std::uint8_t>(to_above <= to_corner ? above : corner);
}

#if QUADRAT_PNG_X86

// One pixel at a time in 16-bit lanes: each pixel waits for the one on its left, so what counts is
// the number of instructions between the two, not the width of the registers.

inline int load_pixel(const std::uint8_t* from) {
  int value;
  std::memcpy(&value, from, sizeof value);  // a fourth byte comes along and is never used
  return value;
}

__attribute__((target("sse4.1"))) inline __m128i widen(const std::uint8_t* from) {
  return _mm_cvtepu8_epi16(_mm_cvtsi32_si128(load_pixel(from)));
}

__attribute__((target("sse4.1"))) inline void store_pixel(__m128i wide, std::uint8_t* to,
                                                          std::size_t bytes) {
  const int value = _mm_cvtsi128_si32(_mm_packus_epi16(wide, wide));
  std::memcpy(to, &value, bytes);
}

/// Calls step(i, bytes to store) for every pixel: four bytes where the next pixel is overwritten
/// anyway, three for the last.
#define QUADRAT_EACH_PIXEL(STEP)                                          \
  for (std::size_t i = 0; i + 1 < width_px; ++i) STEP(i* kPixelBytes, 4); \
  STEP((width_px - 1) * kPixelBytes, 3)

__attribute__((target("sse4.1"))) void unfilter_sub(const std::uint8_t* coded, std::uint8_t* row,
                                                    std::size_t width_px) {
  __m128i left = _mm_setzero_si128();
#define QUADRAT_STEP(AT, BYTES)                     \
  do {                                              \
    left = _mm_add_epi8(left, widen(coded + (AT))); \
    store_pixel(left, row + (AT), BYTES);           \
  } while (false)
  QUADRAT_EACH_PIXEL(QUADRAT_STEP);
#undef QUADRAT_STEP
}

__attribute__((target("sse4.1"))) void unfilter_average(const std::uint8_t* coded,
                                                        const std::uint8_t* above,
                                                        std::uint8_t* row, std::size_t width_px) {
  __m128i left = _mm_setzero_si128();
#define QUADRAT_STEP(AT, BYTES)                                                       \
  do {                                                                                \
    const __m128i mean = _mm_srli_epi16(_mm_add_epi16(left, widen(above + (AT))), 1); \
    left = _mm_add_epi8(mean, widen(coded + (AT)));                                   \
    store_pixel(left, row + (AT), BYTES);                                             \
  } while (false)
  QUADRAT_EACH_PIXEL(QUADRAT_STEP);
#undef QUADRAT_STEP
}

/// With t = 3 corner - left - above, lo and hi the smaller and larger of left and above, the
/// predictor is hi where t <= lo, else lo where hi <= t, else the corner: six dependent
/// instructions, where the distances take nine.
__attribute__((target("sse4.1"))) void unfilter_paeth(const std::uint8_t* coded,
                                                      const std::uint8_t* above, std::uint8_t* row,
                                                      std::size_t width_px) {
  __m128i left = _mm_setzero_si128();
  __m128i corner = _mm_setzero_si128();
#define QUADRAT_STEP(AT, BYTES)                                                   \
  do {                                                                            \
    const __m128i top = widen(above + (AT));                                      \
    const __m128i corner3 = _mm_add_epi16(corner, _mm_add_epi16(corner, corner)); \
    const __m128i t = _mm_sub_epi16(_mm_sub_epi16(corner3, top), left);           \
    const __m128i lo = _mm_min_epi16(left, top);                                  \
    const __m128i hi = _mm_max_epi16(left, top);                                  \
    const __m128i inner = _mm_blendv_epi8(lo, corner, _mm_cmpgt_epi16(hi, t));    \
    const __m128i predicted = _mm_blendv_epi8(hi, inner, _mm_cmpgt_epi16(t, lo)); \
    left = _mm_add_epi8(predicted, widen(coded + (AT)));                          \
    corner = top;                                                                 \
    store_pixel(left, row + (AT), BYTES);                                         \
  } while (false)
  QUADRAT_EACH_PIXEL(QUADRAT_STEP);
#undef QUADRAT_STEP
}
#undef QUADRAT_EACH_PIXEL

bool has_sse41() {
  static const bool has = __builtin_cpu_supports("sse4.1") != 0;
  return has;
}

#endif  // QUADRAT_PNG_X86

/// All five candidates of a row and their costs. Plain loops: the compiler makes vectors of them,
/// and two copies where the processor's width is only known when the program runs.
#if QUADRAT_PNG_X86 && !defined(__SANITIZE_ADDRESS__) && !defined(__clang__)
__attribute__((target_clones("avx2", "default")))
#endif
void filter_all(const std::uint8_t* row, const std::uint8_t* above, std::size_t bytes,
                std::uint8_t* scratch, std::uint32_t* costs) {
  std::uint8_t* const none = scratch;
  std::uint8_t* const sub = none + bytes;
  std::uint8_t* const up = sub + bytes;
  std::uint8_t* const average = up + bytes;
  std::uint8_t* const best = average + bytes;
  for (std::size_t i = 0; i < kPixelBytes; ++i) {
    none[i] = row[i];
    sub[i] = row[i];
    up[i] = static_cast<std::uint8_t>(row[i] - above[i]);
    average[i] = static_cast<std::uint8_t>(row[i] - (above[i] >> 1));
    best[i] = up[i];
  }
  std::memcpy(none, row, bytes);
  for (std::size_t i = kPixelBytes; i < bytes; ++i) {
    sub[i] = static_cast<std::uint8_t>(row[i] - row[i - kPixelBytes]);
  }
  for (std::size_t i = kPixelBytes; i < bytes; ++i) {
    up[i] = static_cast<std::uint8_t>(row[i] - above[i]);
  }
  for (std::size_t i = kPixelBytes; i < bytes; ++i) {
    average[i] = static_cast<std::uint8_t>(row[i] - ((row[i - kPixelBytes] + above[i]) >> 1));
  }
  for (std::size_t i = kPixelBytes; i < bytes; ++i) {
    const std::int16_t left = row[i - kPixelBytes];
    const std::int16_t top = above[i];
    const std::int16_t corner = above[i - kPixelBytes];
    const auto t = static_cast<std::int16_t>(3 * corner - left - top);
    const std::int16_t lo = left < top ? left : top;
    const std::int16_t hi = left < top ? top : left;
    const std::int16_t inner = hi > t ? corner : lo;
    const std::int16_t predicted = t > lo ? inner : hi;
    best[i] = static_cast<std::uint8_t>(row[i] - predicted);
  }
  for (int filter = 0; filter < 5; ++filter) {
    const std::uint8_t* candidate = scratch + static_cast<std::size_t>(filter) * bytes;
    std::uint32_t cost = 0;
    for (std::size_t i = 0; i < bytes; ++i) {
      const std::uint8_t value = candidate[i];
      const auto negated = static_cast<std::uint8_t>(-value);
      cost += value < negated ? value : negated;
    }
    costs[filter] = cost;
  }
}

}  // namespace

void unfilter_row_portable(std::uint8_t filter, const std::uint8_t* coded,
                           const std::uint8_t* above, std::uint8_t* row, std::size_t width_px) {
  const std::size_t bytes = width_px * kPixelBytes;
  for (std::size_t i = 0; i < bytes; ++i) {
    const int left = i < kPixelBytes ? 0 : row[i - kPixelBytes];
    const int corner = i < kPixelBytes ? 0 : above[i - kPixelBytes];
    int predicted = 0;
    if (filter == kSub) predicted = left;
    if (filter == kUp) predicted = above[i];
    if (filter == kAverage) predicted = (left + above[i]) >> 1;
    if (filter == kPaeth) predicted = paeth(left, above[i], corner);
    row[i] = static_cast<std::uint8_t>(coded[i] + predicted);
  }
}

void unfilter_row(std::uint8_t filter, const std::uint8_t* coded, const std::uint8_t* above,
                  std::uint8_t* row, std::size_t width_px) {
  const std::size_t bytes = width_px * kPixelBytes;
  if (filter == kNone) {
    std::memcpy(row, coded, bytes);
    return;
  }
  if (filter == kUp) {
    for (std::size_t i = 0; i < bytes; ++i) row[i] = static_cast<std::uint8_t>(coded[i] + above[i]);
    return;
  }
#if QUADRAT_PNG_X86
  if (has_sse41()) {
    if (filter == kSub) return unfilter_sub(coded, row, width_px);
    if (filter == kAverage) return unfilter_average(coded, above, row, width_px);
    return unfilter_paeth(coded, above, row, width_px);
  }
#endif
  unfilter_row_portable(filter, coded, above, row, width_px);
}

void filter_row(const std::uint8_t* row, const std::uint8_t* above, std::size_t width_px,
                std::uint8_t* scratch, std::uint8_t* coded) {
  const std::size_t bytes = width_px * kPixelBytes;
  std::array<std::uint32_t, 5> costs{};
  filter_all(row, above, bytes, scratch, costs.data());
  int best = 0;
  for (int filter = 1; filter < 5; ++filter) {
    if (costs[static_cast<std::size_t>(filter)] < costs[static_cast<std::size_t>(best)])
      best = filter;
  }
  coded[0] = static_cast<std::uint8_t>(best);
  std::memcpy(coded + 1, scratch + static_cast<std::size_t>(best) * bytes, bytes);
}

}  // namespace quadrat::png
