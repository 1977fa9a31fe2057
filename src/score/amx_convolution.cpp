#include "amx_convolution.h"

#include <algorithm>
#include <array>
#include <cassert>
#include <cmath>
#include <cstring>

#include "quadrat/base/bf16.h"
#include "quadrat/base/cpu.h"

#if defined(__x86_64__) && defined(__GNUC__)
#define QUADRAT_AMX 1
#include <immintrin.h>
#else
#define QUADRAT_AMX 0
#endif

namespace quadrat::score {

namespace {

constexpr std::int64_t kRows = 16;      // of a tile register
constexpr std::int64_t kRowBytes = 64;  // of each
constexpr std::int64_t kColumns = 16;   // of 4 bytes: sums of 16 output channels
constexpr std::int64_t kTileBytes = kRows * kRowBytes;
/// Sums are held of 2 x 2 tiles: each tile of inputs and of weights is loaded for two products.
constexpr std::int64_t kPanel = 2 * kColumns;
constexpr std::int64_t kBlock = 2 * kRows;
/// Weights that stay in the cache between strips of rows; where there are more, each panel of them
/// is used for all maps before the next.
constexpr std::int64_t kFewWeights = 640 << 10;
/// Of the planes of a strip, unless so few rows fit that many are copied twice.
constexpr std::int64_t kStripBytes = 96 << 10;
constexpr std::int64_t kFewestRows = 4;  // for each tap

constexpr std::int64_t bytes_of(AmxConvolution::Numbers numbers) {
  return numbers == AmxConvolution::Numbers::kBf16 ? 2 : 1;
}

constexpr std::int64_t round_up(std::int64_t value, std::int64_t step) {
  return (value + step - 1) / step * step;
}

}  // namespace

bool AmxConvolution::is_supported(const Shape& shape) {
  return QUADRAT_AMX != 0 && cpu_features().amx && shape.channels_out % kPanel == 0 &&
         (shape.channels_in == 3 || shape.channels_in % kRowBytes == 0);
}

AmxConvolution::AmxConvolution(const Shape& shape, Numbers numbers)
    : shape_(shape),
      numbers_(numbers),
      taps_((shape.kernel + shape.stride - 1) / shape.stride),
      is_narrow_(shape.channels_in == 3),
      pixel_bytes_(kRowBytes),
      // Columns that are padding in every phase, left of a row, are right of the row above too.
      pitch_(shape.out_width() + taps_ - 1 - std::min(shape.padding / shape.stride, taps_ - 1)),
      planes_(shape.stride * shape.stride * shape.channels_in * bytes_of(numbers) / kRowBytes) {
  assert(is_supported(shape));
  if (is_narrow_) {
    const std::int64_t row_bytes = 3 * shape.kernel * bytes_of(numbers);
    rows_a_pixel_ = std::clamp<std::int64_t>(kRowBytes / row_bytes, 1, shape.stride);
    while (shape.stride % rows_a_pixel_ != 0) --rows_a_pixel_;
    pixel_bytes_ = round_up(rows_a_pixel_ * row_bytes, kRowBytes);
    pitch_ = shape.out_width();
    planes_ = shape.stride / rows_a_pixel_;
  }
  const std::int64_t weight_bytes =
      shape.channels_out * shape.channels_in * shape.kernel * shape.kernel * bytes_of(numbers);
  strip_rows_ = shape.out_height();
  if (weight_bytes <= kFewWeights) {
    const std::int64_t fitting = kStripBytes / (planes_ * pitch_ * pixel_bytes_) - (taps_ - 1);
    strip_rows_ = std::min(std::max(fitting, kFewestRows * taps_), strip_rows_);
  }
  const std::int64_t positions = round_up(strip_rows_ * pitch_, kRows);
  plane_bytes_ = pixel_bytes_ * (positions + (taps_ - 1) * (pitch_ + 1) + taps_);
  for (std::int64_t i = 0; i < positions; ++i) {
    const std::int64_t x = i % pitch_;
    places_.push_back(
        x < shape.out_width() ? static_cast<std::int32_t>(i / pitch_ * shape.out_width() + x) : -1);
  }
}

/// Cuts the convolution into steps, each a product of tiles of inputs with tiles of weights.
/// @param weight_at (channel out, channel in, y, x)
template <typename Value, typename At>
void AmxConvolution::lay_out(At weight_at) {
  constexpr std::int64_t kSize = sizeof(Value);
  constexpr std::int64_t kInStep = kRowBytes / kSize;
  constexpr std::int64_t kGroup = 4 / kSize;  // inputs that are multiplied and added at once
  const std::int64_t stride = shape_.stride;
  const std::int64_t phases = is_narrow_ ? planes_ : stride * stride;
  const std::int64_t pieces = is_narrow_ ? pixel_bytes_ / kRowBytes : taps_;

  struct Tap {
    std::int64_t channel, y, x;
    bool is_any;
  };
  /// What a step's input number `at` is.
  const auto tap_of = [&](std::int64_t plane, std::int64_t row, std::int64_t piece,
                          std::int64_t at) {
    const std::int64_t phase = plane % phases;
    Tap tap{plane / phases * kInStep + at, row * stride + phase / stride,
            piece * stride + phase % stride, true};
    if (is_narrow_) {
      const std::int64_t across = 3 * shape_.kernel;
      const std::int64_t in_pixel = piece * kInStep + at;
      const std::int64_t row_in_pixel = in_pixel / across;
      tap = {in_pixel % 3, row * stride + phase * rows_a_pixel_ + row_in_pixel,
             in_pixel % across / 3, row_in_pixel < rows_a_pixel_};
    }
    tap.is_any = tap.is_any && tap.y < shape_.kernel && tap.x < shape_.kernel;
    return tap;
  };

  std::vector<std::array<Tap, kInStep>> steps;
  for (std::int64_t plane = 0; plane < planes_; ++plane) {
    for (std::int64_t row = 0; row < taps_; ++row) {
      for (std::int64_t piece = 0; piece < pieces; ++piece) {
        std::array<Tap, kInStep> step;
        for (std::int64_t i = 0; i < kInStep; ++i)
          step[static_cast<std::size_t>(i)] = tap_of(plane, row, piece, i);
        if (std::none_of(step.begin(), step.end(), [](const Tap& tap) { return tap.is_any; }))
          continue;
        offsets_.push_back(plane * plane_bytes_ + row * pitch_ * pixel_bytes_ + piece * kRowBytes);
        steps.push_back(step);
      }
    }
  }
  weights_.grow(static_cast<std::size_t>(shape_.channels_out / kColumns * kTileBytes) *
                steps.size());
  auto* to = reinterpret_cast<Value*>(weights_.get());
  for (std::int64_t first = 0; first < shape_.channels_out; first += kPanel) {
    for (const auto& step : steps) {
      for (std::int64_t k = 0; k < kPanel; ++k) {
        for (std::int64_t i = 0; i < kInStep; ++i) {
          const Tap& tap = step[static_cast<std::size_t>(i)];
          to[(k / kColumns * kRows + i / kGroup) * kInStep + k % kColumns * kGroup + i % kGroup] =
              tap.is_any ? weight_at(first + k, tap.channel, tap.y, tap.x) : Value{0};
        }
      }
      to += 2 * kTileBytes / kSize;
    }
  }
}

AmxConvolution::AmxConvolution(const Shape& shape, const float* weight, const float* bias)
    : AmxConvolution(shape, Numbers::kBf16) {
  biases_.assign(bias, bias + shape.channels_out);
  scales_.assign(biases_.size(), 1.0F);
  lay_out<std::uint16_t>([&](std::int64_t k, std::int64_t c, std::int64_t y, std::int64_t x) {
    return bf16::narrow(
        weight[((k * shape.channels_in + c) * shape.kernel + y) * shape.kernel + x]);
  });
}

AmxConvolution::AmxConvolution(const Shape& shape, const std::int8_t* weight, const float* scales,
                               const float* bias, Meaning in, Meaning before, Meaning out)
    : AmxConvolution(shape, Numbers::kBytes) {
  assert(in.zero_point == 0 || is_narrow_);
  const std::int64_t taps = shape.channels_in * shape.kernel * shape.kernel;
  const auto out_scale = static_cast<double>(out.scale);
  for (std::int64_t k = 0; k < shape.channels_out; ++k) {
    std::int64_t sum = 0;
    for (std::int64_t i = 0; i < taps; ++i) sum += weight[k * taps + i];
    const double scale = static_cast<double>(in.scale) * static_cast<double>(scales[k]);
    const double bias_k = static_cast<double>(bias[k]) -
                          scale * static_cast<double>(sum) * static_cast<double>(in.zero_point);
    scales_.push_back(static_cast<float>(scale / out_scale));
    biases_.push_back(static_cast<float>(bias_k / out_scale + static_cast<double>(out.zero_point)));
  }
  padding_ = static_cast<std::uint8_t>(in.zero_point);
  addend_scale_ = before.scale / out.scale;
  addend_zero_point_ = static_cast<float>(before.zero_point);
  out_zero_point_ = static_cast<float>(out.zero_point);
  lay_out<std::int8_t>([&](std::int64_t k, std::int64_t c, std::int64_t y, std::int64_t x) {
    return weight[((k * shape.channels_in + c) * shape.kernel + y) * shape.kernel + x];
  });
}

#if QUADRAT_AMX

#define QUADRAT_TARGET \
  target("amx-tile,amx-int8,amx-bf16,avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")
#define QUADRAT_AMX_FUNCTION __attribute__((QUADRAT_TARGET))
#define QUADRAT_AMX_INLINE __attribute__((QUADRAT_TARGET, always_inline)) inline

namespace {

using Numbers = AmxConvolution::Numbers;

/// Sums on their way to outputs.
struct Pending {
  const std::byte* sums = nullptr;       ///< [rows, 32] of 4 bytes
  const std::int32_t* places = nullptr;  ///< of the rows
  std::int64_t left = 0;                 ///< rows
  const float* scales = nullptr;         ///< 32 channels'
  const float* biases = nullptr;
  float addend_scale = 1, addend_zero_point = 0;
  float least = 0;                    ///< of the outputs
  const std::byte* addend = nullptr;  ///< from the first of the 32 channels on; or nothing
  std::byte* out = nullptr;           ///< likewise
  std::int64_t out_pixel_bytes = 0;
};

template <Numbers N>
QUADRAT_AMX_INLINE void finish_channels(const Pending& pending, std::int64_t half,
                                        const std::byte* addend, std::byte* to) {
  const __m512 biases = _mm512_loadu_ps(pending.biases + half * kColumns);
  const __m512 least = _mm512_set1_ps(pending.least);
  const std::byte* const sums = pending.sums + half * kRowBytes;
  if constexpr (N == Numbers::kBytes) {
    const __m512 scales = _mm512_loadu_ps(pending.scales + half * kColumns);
    __m512 value = _mm512_fmadd_ps(_mm512_cvtepi32_ps(_mm512_load_si512(sums)), scales, biases);
    if (pending.addend != nullptr) {
      const __m512 bytes = _mm512_cvtepi32_ps(
          _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(addend))));
      value = _mm512_fmadd_ps(_mm512_sub_ps(bytes, _mm512_set1_ps(pending.addend_zero_point)),
                              _mm512_set1_ps(pending.addend_scale), value);
    }
    const __m512i whole = _mm512_cvtps_epi32(_mm512_max_ps(value, least));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm512_cvtusepi32_epi8(whole));
    return;
  }
  __m512 value = _mm512_add_ps(_mm512_load_ps(reinterpret_cast<const float*>(sums)), biases);
  if constexpr (N == Numbers::kBf16) {
    if (pending.addend != nullptr) {
      const __m512i wide =
          _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(addend)));
      value = _mm512_add_ps(value, _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16)));
    }
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to),
                        reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(_mm512_max_ps(value, least))));
  }
}

template <Numbers N>
QUADRAT_AMX_INLINE void finish(Pending& pending, std::int64_t rows) {
  constexpr std::int64_t kHalf = kColumns * bytes_of(N);
  rows = std::min(rows, pending.left);
  pending.left -= rows;
  for (; rows > 0; --rows, ++pending.places, pending.sums += 2 * kRowBytes) {
    if (*pending.places < 0) continue;
    const std::int64_t at = *pending.places * pending.out_pixel_bytes;
    finish_channels<N>(pending, 0, pending.addend + at, pending.out + at);
    finish_channels<N>(pending, 1, pending.addend + at + kHalf, pending.out + at + kHalf);
  }
}

/// The macros of tile registers take numbers that are known to the preprocessor.
#define QUADRAT_MULTIPLY(SUMS, INPUTS, WEIGHTS) \
  if constexpr (N == Numbers::kBytes) {         \
    _tile_dpbusd(SUMS, INPUTS, WEIGHTS);        \
  } else {                                      \
    _tile_dpbf16ps(SUMS, INPUTS, WEIGHTS);      \
  }

/// Rows x 16 outputs of 32 channels; meanwhile finishes what is pending.
template <Numbers N, int Rows>
QUADRAT_AMX_FUNCTION void multiply(const std::byte* inputs, std::int64_t pixel_bytes,
                                   const std::vector<std::int64_t>& offsets,
                                   const std::byte* weights, std::byte* sums,
                                   const Pending& before) {
  Pending pending = before;
  const auto steps = static_cast<std::int64_t>(offsets.size());
  const std::int64_t rows_a_step = (pending.left + steps - 1) / steps;
  const std::int64_t tile_step = kRows * pixel_bytes;
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  for (const std::int64_t offset : offsets) {
    const std::byte* const from = inputs + offset;
    _tile_loadd(6, weights, kRowBytes);
    _tile_loadd(4, from, pixel_bytes);
    QUADRAT_MULTIPLY(0, 4, 6)
    _tile_loadd(7, weights + kTileBytes, kRowBytes);
    QUADRAT_MULTIPLY(1, 4, 7)
    if constexpr (Rows > 1) {
      _tile_loadd(5, from + tile_step, pixel_bytes);
      QUADRAT_MULTIPLY(2, 5, 6)
      QUADRAT_MULTIPLY(3, 5, 7)
    }
    weights += 2 * kTileBytes;
    finish<N>(pending, rows_a_step);
  }
  finish<N>(pending, pending.left);
  _tile_stored(0, sums, 2 * kRowBytes);
  _tile_stored(1, sums + kRowBytes, 2 * kRowBytes);
  if constexpr (Rows > 1) {
    _tile_stored(2, sums + 2 * kTileBytes, 2 * kRowBytes);
    _tile_stored(3, sums + 2 * kTileBytes + kRowBytes, 2 * kRowBytes);
  }
}
#undef QUADRAT_MULTIPLY

template <Numbers N>
QUADRAT_AMX_FUNCTION void finish_rest(Pending pending) {
  finish<N>(pending, pending.left);
}

/// All eight registers of 16 rows of 64 bytes.
struct alignas(64) TileConfiguration {
  std::uint8_t palette = 1, start_row = 0;
  std::uint8_t reserved[14]{};
  std::uint16_t row_bytes[16]{64, 64, 64, 64, 64, 64, 64, 64};
  std::uint8_t rows[16]{16, 16, 16, 16, 16, 16, 16, 16};
};

/// Holds the tile registers while it lives.
class TileRegisters {
 public:
  QUADRAT_AMX_FUNCTION TileRegisters() {
    static constexpr TileConfiguration kConfiguration;
    _tile_loadconfig(&kConfiguration);
  }
  QUADRAT_AMX_FUNCTION ~TileRegisters() { _tile_release(); }
  TileRegisters(const TileRegisters&) = delete;
  TileRegisters& operator=(const TileRegisters&) = delete;
};

}  // namespace

/// Copies 64 bytes of channels at a time.
QUADRAT_AMX_FUNCTION void AmxConvolution::spread(const Strip& strip, std::byte* planes) const {
  const std::int64_t stride = shape_.stride;
  const std::int64_t phases = stride * stride;
  const std::int64_t in_pixel = shape_.channels_in * bytes_of(numbers_);
  const std::int64_t rows = strip.rows + taps_ - 1;
  for (std::int64_t p = 0; p < planes_; ++p) {
    const std::int64_t phase = p % phases;
    if (phase / stride >= shape_.kernel || phase % stride >= shape_.kernel) continue;
    std::byte* const plane = planes + p * plane_bytes_;
    const std::int64_t shift = phase % stride - shape_.padding;
    // The plane's columns from begin to before end are of the map.
    const std::int64_t begin = (std::max<std::int64_t>(-shift, 0) + stride - 1) / stride;
    const std::int64_t end =
        std::clamp((shape_.width - shift + stride - 1) / stride, begin, pitch_);
    std::byte* to = plane;
    const auto zeros = [&](std::int64_t pixels) {
      std::memset(to, 0, static_cast<std::size_t>(pixels * kRowBytes));
      to += pixels * kRowBytes;
    };
    for (std::int64_t y = 0; y < rows; ++y) {
      const std::int64_t row = (strip.first + y) * stride + phase / stride - shape_.padding;
      if (row < 0 || row >= shape_.height) {
        zeros(pitch_);
        continue;
      }
      zeros(begin);
      const std::byte* from = strip.in + (row * shape_.width + begin * stride + shift) * in_pixel +
                              p / phases * kRowBytes;
      for (std::int64_t x = begin; x < end; ++x, from += stride * in_pixel, to += kRowBytes)
        _mm512_store_si512(to, _mm512_loadu_si512(from));
      zeros(pitch_ - end);
    }
    // Right of the last row.
    zeros(taps_);
  }
}

/// To each pixel of a plane what its output looks at, row by row.
QUADRAT_AMX_FUNCTION void AmxConvolution::spread_narrow(const Strip& strip,
                                                        std::byte* planes) const {
  const std::int64_t stride = shape_.stride;
  const std::int64_t size = bytes_of(numbers_);
  const std::int64_t width = 3 * size * shape_.width;
  const std::int64_t margin = 3 * size * shape_.padding;
  const std::int64_t row_bytes = 3 * size * shape_.kernel;
  const auto lanes = [](std::int64_t bytes) {
    return bytes >= kRowBytes ? ~__mmask64{0} : (__mmask64{1} << bytes) - 1;
  };
  const __mmask64 wanted = lanes(row_bytes);
  const std::int64_t beyond = std::max<std::int64_t>(row_bytes - kRowBytes, 0);
  const __mmask64 wanted_beyond = lanes(beyond);
  // A row of the map between its paddings, and one of padding alone.
  const std::int64_t length = std::max(margin + width, 3 * size * stride * pitch_ + row_bytes);
  std::vector<std::byte> nothing(static_cast<std::size_t>(length + 2 * kRowBytes),
                                 static_cast<std::byte>(padding_));
  std::vector<std::byte> line = nothing;
  for (std::int64_t y = 0; y < strip.rows + taps_ - 1; ++y) {
    for (std::int64_t phase = 0; phase < stride; ++phase) {
      const std::int64_t row = (strip.first + y) * stride + phase - shape_.padding;
      const bool is_inside = row >= 0 && row < shape_.height;
      if (is_inside)
        std::memcpy(line.data() + margin, strip.in + row * width, static_cast<std::size_t>(width));
      const std::byte* from = (is_inside ? line : nothing).data();
      const std::int64_t row_in_pixel = phase % rows_a_pixel_;
      std::byte* to = planes + phase / rows_a_pixel_ * plane_bytes_ + y * pitch_ * pixel_bytes_ +
                      row_in_pixel * row_bytes;
      for (std::int64_t x = 0; x < pitch_; ++x, to += pixel_bytes_, from += 3 * size * stride) {
        const __m512i values = _mm512_maskz_loadu_epi8(wanted, from);
        if (row_in_pixel == 0) {
          _mm512_store_si512(to, values);
        } else {
          _mm512_mask_storeu_epi8(to, wanted, values);
        }
        if (beyond > 0) {
          _mm512_store_si512(to + kRowBytes,
                             _mm512_maskz_loadu_epi8(wanted_beyond, from + kRowBytes));
        }
      }
    }
  }
}

template <AmxConvolution::Numbers N>
void AmxConvolution::run_strips(std::span<const Strip> strips, bool relu) const {
  static thread_local AlignedBytes scratch;
  constexpr std::int64_t kSums = 4 * kTileBytes;
  const std::int64_t strip_bytes = planes_ * plane_bytes_;
  const auto count = static_cast<std::int64_t>(strips.size());
  scratch.grow(static_cast<std::size_t>(2 * kSums + count * strip_bytes));
  std::byte* planes = scratch.get() + 2 * kSums;
  for (const Strip& strip : strips) {
    is_narrow_ ? spread_narrow(strip, planes) : spread(strip, planes);
    planes += strip_bytes;
  }
  const std::int64_t panel_bytes = 2 * kTileBytes * static_cast<std::int64_t>(offsets_.size());
  Pending all;
  all.addend_scale = addend_scale_;
  all.addend_zero_point = addend_zero_point_;
  all.least = N == Numbers::kBytes ? 0.0F : -HUGE_VALF;
  if (relu) all.least = out_zero_point_;
  all.out_pixel_bytes = shape_.channels_out * bytes_of(N);
  // A block's sums, and what is to become of them, are looked at while the next block is computed.
  std::array<Pending, 2> pending{all, all};
  std::size_t turn = 0;
  const TileRegisters registers;
  for (std::int64_t panel = 0; panel < shape_.channels_out / kPanel; ++panel) {
    const std::int64_t channel = panel * kPanel;
    planes = scratch.get() + 2 * kSums;
    for (const Strip& strip : strips) {
      const std::int64_t positions = (strip.rows - 1) * pitch_ + shape_.out_width();
      for (std::int64_t first = 0; first < positions; first += kBlock) {
        std::byte* const sums = scratch.get() + static_cast<std::int64_t>(turn) * kSums;
        Pending& after = pending[turn];
        after.sums = sums;
        after.places = places_.data() + first;
        after.left = std::min(kBlock, positions - first);
        after.scales = scales_.data() + channel;
        after.biases = biases_.data() + channel;
        after.addend = strip.addend == nullptr ? nullptr : strip.addend + channel * bytes_of(N);
        after.out = strip.out + channel * bytes_of(N);
        turn = 1 - turn;
        const auto work = positions - first > kRows ? multiply<N, 2> : multiply<N, 1>;
        work(planes + first * pixel_bytes_, pixel_bytes_, offsets_,
             weights_.get() + panel * panel_bytes, sums, pending[turn]);
      }
      planes += strip_bytes;
    }
  }
  finish_rest<N>(pending[1 - turn]);
}

void AmxConvolution::run_strips(std::span<const Strip> strips, bool relu) const {
  if (numbers_ == Numbers::kBytes) {
    run_strips<Numbers::kBytes>(strips, relu);
  } else {
    run_strips<Numbers::kBf16>(strips, relu);
  }
}

#else

void AmxConvolution::run_strips(std::span<const Strip> /*strips*/, bool /*relu*/) const {}

#endif  // QUADRAT_AMX

void AmxConvolution::run(const void* in, std::int64_t count, const void* addend, bool relu,
                         void* out) const {
  const std::int64_t in_map =
      shape_.height * shape_.width * shape_.channels_in * bytes_of(numbers_);
  const std::int64_t out_row = shape_.out_width() * shape_.channels_out * bytes_of(numbers_);
  const bool is_whole = strip_rows_ == shape_.out_height();
  std::vector<Strip> strips;
  for (std::int64_t n = 0; n < count; ++n) {
    for (std::int64_t row = 0; row < shape_.out_height(); row += strip_rows_) {
      const std::int64_t at = (n * shape_.out_height() + row) * out_row;
      strips.push_back({static_cast<const std::byte*>(in) + n * in_map, row,
                        std::min(strip_rows_, shape_.out_height() - row),
                        addend == nullptr ? nullptr : static_cast<const std::byte*>(addend) + at,
                        static_cast<std::byte*>(out) + at});
      if (is_whole) continue;
      run_strips(strips, relu);
      strips.clear();
    }
  }
  if (is_whole) run_strips(strips, relu);
}

void AmxConvolution::run_rows(const void* in, std::int64_t first, std::int64_t last, bool relu,
                              void* out) const {
  const std::int64_t out_row = shape_.out_width() * shape_.channels_out * bytes_of(numbers_);
  for (std::int64_t row = first; row < last; row += strip_rows_) {
    const Strip strip{static_cast<const std::byte*>(in), row, std::min(strip_rows_, last - row),
                      nullptr, static_cast<std::byte*>(out) + (row - first) * out_row};
    run_strips({&strip, 1}, relu);
  }
}

}  // namespace quadrat::score
