// The kernels' source, included by one file for each generation of vector registers (vectors.h).
#include <cstdint>

#include "normalize.h"
#include "vectors.h"

namespace quadrat::normalize::QUADRAT_VECTORS {

namespace {

using namespace vectors::QUADRAT_VECTORS;

/// Channels in groups of so many vectors, three of which fit the registers.
constexpr std::int64_t kParts = 4;
constexpr std::int64_t kGroup = kParts * kLanes;
static_assert(kChannelGroup % kGroup == 0);
/// Rows summed in T's arithmetic before they are added to float64 sums.
constexpr std::int64_t kBlockRows = 256;

using Octets = Vector<std::uint8_t>;

template <typename A>
struct Group {
  Vector<A> part[kParts];
  QUADRAT_INLINE Vector<A>& operator[](std::int64_t p) { return part[p]; }
  QUADRAT_INLINE const Vector<A>& operator[](std::int64_t p) const { return part[p]; }
};

QUADRAT_INLINE std::int64_t smaller(std::int64_t a, std::int64_t b) { return a < b ? a : b; }

template <typename T>
QUADRAT_INLINE Group<ArithmeticOf<T>> load_group(const T* from) {
  Group<ArithmeticOf<T>> group;
  for (int p = 0; p < kParts; ++p) group[p] = load(from + p * kLanes);
  return group;
}

template <typename T>
QUADRAT_INLINE void statistics_of(const T* x, std::int64_t rows, std::int64_t channels,
                                  double* mean, double* deviations) {
  using A = ArithmeticOf<T>;
  for (std::int64_t c = 0; c < channels; ++c) mean[c] = deviations[c] = 0;
  for (std::int64_t done = 0; done < rows; done += kBlockRows) {
    const std::int64_t block = smaller(kBlockRows, rows - done);
    for (std::int64_t c = 0; c < channels; c += kGroup) {
      const T* from = x + done * channels + c;
      const Group<A> first = load_group(from);
      Group<A> sum{}, squares{};
      for (std::int64_t r = 1; r < block; ++r) {
        for (int p = 0; p < kParts; ++p) {
          const Vector<A> d = load(from + r * channels + p * kLanes) - first[p];
          sum[p] += d;
          squares[p] += d * d;
        }
      }
      const double n = static_cast<double>(block), before = static_cast<double>(done),
                   all = before + n;
      for (std::int64_t i = 0; i < kGroup; ++i) {
        const double s = sum[i / kLanes][i % kLanes];
        const double delta = first[i / kLanes][i % kLanes] + s / n - mean[c + i];
        deviations[c + i] +=
            squares[i / kLanes][i % kLanes] - s * s / n + delta * delta * before * n / all;
        mean[c + i] += delta * n / all;
      }
    }
  }
}

template <bool relu, bool with_residual, typename T>
QUADRAT_INLINE void apply_to(const T* x, const T* residual, const ArithmeticOf<T>* scale,
                             const ArithmeticOf<T>* offset, std::int64_t rows,
                             std::int64_t channels, T* y) {
  using A = ArithmeticOf<T>;
  for (std::int64_t c = 0; c < channels; c += kGroup) {
    const Group<A> s = load_group(scale + c), o = load_group(offset + c);
    for (std::int64_t at = c; at < rows * channels; at += channels) {
      for (int p = 0; p < kParts; ++p) {
        Vector<A> v = load(x + at + p * kLanes) * s[p] + o[p];
        if constexpr (with_residual) v += load(residual + at + p * kLanes);
        if constexpr (relu) v = rectified(v);
        store(y + at + p * kLanes, v);
      }
    }
  }
}

template <typename T>
QUADRAT_INLINE void apply_any(const T* x, const T* residual, bool relu,
                              const ArithmeticOf<T>* scale, const ArithmeticOf<T>* offset,
                              std::int64_t rows, std::int64_t channels, T* y) {
  if (relu && residual != nullptr)
    return apply_to<true, true>(x, residual, scale, offset, rows, channels, y);
  if (relu) return apply_to<true, false>(x, residual, scale, offset, rows, channels, y);
  if (residual != nullptr)
    return apply_to<false, true>(x, residual, scale, offset, rows, channels, y);
  apply_to<false, false>(x, residual, scale, offset, rows, channels, y);
}

/// How a rectification's gradient finds out what passed.
enum class Passes { kAll, kWherePositive, kWhereComputedPositive };

/// The gradient that passes the rectification, of x * scale + offset where that is computed again.
template <Passes passes, typename T>
QUADRAT_INLINE Vector<ArithmeticOf<T>> passing(const T* dy, const T* y, Vector<ArithmeticOf<T>> x,
                                               Vector<ArithmeticOf<T>> scale,
                                               Vector<ArithmeticOf<T>> offset) {
  const auto g = load(dy);
  if constexpr (passes == Passes::kAll) return g;
  const auto value = passes == Passes::kWherePositive ? load(y) : x * scale + offset;
  return value > 0 ? g : Vector<ArithmeticOf<T>>{};
}

template <Passes passes, bool writing, typename T>
QUADRAT_INLINE void backward_sums_of(const T* dy, const T* y, const T* x, const Scaling<T>& scaling,
                                     std::int64_t rows, std::int64_t channels, T* g_out,
                                     double* sum_g, double* sum_gx) {
  using A = ArithmeticOf<T>;
  for (std::int64_t done = 0; done < rows; done += kBlockRows) {
    const std::int64_t end = smaller(done + kBlockRows, rows) * channels;
    for (std::int64_t c = 0; c < channels; c += kGroup) {
      const Group<A> m = load_group(scaling.mean + c);
      Group<A> s{}, o{};
      if constexpr (passes == Passes::kWhereComputedPositive) {
        s = load_group(scaling.scale + c);
        o = load_group(scaling.offset + c);
      }
      Group<A> g_sum{}, gx_sum{};
      for (std::int64_t at = done * channels + c; at < end; at += channels) {
        for (int p = 0; p < kParts; ++p) {
          const std::int64_t i = at + p * kLanes;
          const Vector<A> value = load(x + i);
          const Vector<A> g = passing<passes>(dy + i, y + i, value, s[p], o[p]);
          if constexpr (writing) store(g_out + i, g);
          g_sum[p] += g;
          gx_sum[p] += g * (value - m[p]);
        }
      }
      for (std::int64_t i = 0; i < kGroup; ++i) {
        sum_g[c + i] += g_sum[i / kLanes][i % kLanes];
        sum_gx[c + i] += gx_sum[i / kLanes][i % kLanes];
      }
    }
  }
}

template <typename T>
QUADRAT_INLINE void backward_sums_any(const T* dy, const T* y, const T* x,
                                      const Scaling<T>& scaling, std::int64_t rows,
                                      std::int64_t channels, T* g_out, double* sum_g,
                                      double* sum_gx) {
  if (y != nullptr) {
    return backward_sums_of<Passes::kWherePositive, true>(dy, y, x, scaling, rows, channels, g_out,
                                                          sum_g, sum_gx);
  }
  if (scaling.scale != nullptr) {
    return backward_sums_of<Passes::kWhereComputedPositive, false>(dy, dy, x, scaling, rows,
                                                                   channels, g_out, sum_g, sum_gx);
  }
  backward_sums_of<Passes::kAll, false>(dy, dy, x, scaling, rows, channels, g_out, sum_g, sum_gx);
}

template <Passes passes, typename T>
QUADRAT_INLINE void backward_input_to(const T* dy, const T* x, const Scaling<T>& scaling,
                                      const ArithmeticOf<T>* a, const ArithmeticOf<T>* b,
                                      const ArithmeticOf<T>* c, std::int64_t rows,
                                      std::int64_t channels, T* dx) {
  using A = ArithmeticOf<T>;
  for (std::int64_t k = 0; k < channels; k += kGroup) {
    const Group<A> ma = load_group(scaling.mean + k), aa = load_group(a + k),
                   ba = load_group(b + k), ca = load_group(c + k);
    Group<A> s{}, o{};
    if constexpr (passes == Passes::kWhereComputedPositive) {
      s = load_group(scaling.scale + k);
      o = load_group(scaling.offset + k);
    }
    for (std::int64_t at = k; at < rows * channels; at += channels) {
      for (int p = 0; p < kParts; ++p) {
        const std::int64_t i = at + p * kLanes;
        const Vector<A> value = load(x + i);
        const Vector<A> g = passing<passes>(dy + i, dy + i, value, s[p], o[p]);
        store(dx + i, aa[p] * g + (ba[p] * (value - ma[p]) + ca[p]));
      }
    }
  }
}

template <typename T>
QUADRAT_INLINE void backward_input_any(const T* dy, const T* x, const Scaling<T>& scaling,
                                       const ArithmeticOf<T>* a, const ArithmeticOf<T>* b,
                                       const ArithmeticOf<T>* c, std::int64_t rows,
                                       std::int64_t channels, T* dx) {
  if (scaling.scale != nullptr) {
    return backward_input_to<Passes::kWhereComputedPositive>(dy, x, scaling, a, b, c, rows,
                                                             channels, dx);
  }
  backward_input_to<Passes::kAll>(dy, x, scaling, a, b, c, rows, channels, dx);
}

template <typename T>
QUADRAT_INLINE void apply_pooled_to(const T* x, const ArithmeticOf<T>* scale,
                                    const ArithmeticOf<T>* offset, std::int64_t height,
                                    std::int64_t width, std::int64_t channels, T* y,
                                    std::uint8_t* place) {
  using A = ArithmeticOf<T>;
  using V = Vector<A>;
  using Mask = decltype(V{} < V{});
  for (std::int64_t oy = 0; oy < pooled(height); ++oy) {
    for (std::int64_t ox = 0; ox < pooled(width); ++ox) {
      for (std::int64_t c = 0; c < channels; c += kLanes) {
        const V s = load(scale + c), o = load(offset + c);
        V best{};
        Mask where = Mask{} + 255;
        for (std::int64_t k = 0; k < 9; ++k) {
          const std::int64_t iy = 2 * oy - 1 + k / 3, ix = 2 * ox - 1 + k % 3;
          if (iy < 0 || iy >= height || ix < 0 || ix >= width) continue;
          const V v = load(x + (iy * width + ix) * channels + c) * s + o;
          const Mask better = (v > best) | (v != v);
          best = better ? v : best;
          where = better ? Mask{} + static_cast<std::int8_t>(k) : where;
        }
        store(y, best);
        const Octets octets = __builtin_convertvector(where, Octets);
        write(place, octets);
        y += kLanes;
        place += kLanes;
      }
    }
  }
}

/// Of a pixel's windows, those few whose maximum it may be.
template <typename T>
struct Window {
  const T* dy;
  const std::uint8_t* place;
  std::int8_t where;  ///< the pixel's number in it
};

template <int windows, typename T>
QUADRAT_INLINE void add_windows(const Window<T>* window, std::int64_t channels, T* g) {
  using V = Vector<ArithmeticOf<T>>;
  using Mask = decltype(V{} < V{});
  for (std::int64_t c = 0; c < channels; c += kLanes) {
    V sum{};
    for (int w = 0; w < windows; ++w) {
      const Mask mine = __builtin_convertvector(read<Octets>(window[w].place + c), Mask) ==
                        Mask{} + window[w].where;
      sum += mine ? load(window[w].dy + c) : V{};
    }
    store(g + c, sum);
  }
}

template <typename T>
QUADRAT_INLINE void backward_pooled_to(const T* dy, const std::uint8_t* place, std::int64_t height,
                                       std::int64_t width, std::int64_t channels, T* g) {
  const std::int64_t out_height = pooled(height), out_width = pooled(width);
  for (std::int64_t iy = 0; iy < height; ++iy) {
    // An even row is the middle of one row of windows, an odd one the last of one and the first of
    // the next.
    const std::int64_t top = iy / 2, bottom = smaller((iy + 1) / 2, out_height - 1);
    for (std::int64_t ix = 0; ix < width; ++ix, g += channels) {
      const std::int64_t left = ix / 2, right = smaller((ix + 1) / 2, out_width - 1);
      Window<T> window[4];
      int windows = 0;
      for (std::int64_t oy = top; oy <= bottom; ++oy) {
        for (std::int64_t ox = left; ox <= right; ++ox) {
          const std::int64_t at = (oy * out_width + ox) * channels;
          window[windows++] = {dy + at, place + at,
                               static_cast<std::int8_t>((iy + 1 - 2 * oy) * 3 + ix + 1 - 2 * ox)};
        }
      }
      if (windows == 1) {
        add_windows<1>(window, channels, g);
      } else if (windows == 2) {
        add_windows<2>(window, channels, g);
      } else {
        add_windows<4>(window, channels, g);
      }
    }
  }
}

}  // namespace

template <typename T>
Kernels<T> kernels() {
  return {statistics_of<T>,      apply_any<T>,       backward_sums_any<T>,
          backward_input_any<T>, apply_pooled_to<T>, backward_pooled_to<T>};
}
template Kernels<float> kernels();
template Kernels<double> kernels();
template Kernels<Bf16> kernels();

}  // namespace quadrat::normalize::QUADRAT_VECTORS
