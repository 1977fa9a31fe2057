#include <cuda_bf16.h>

#include <algorithm>

#include "launch.h"
#include "quadrat/gpu/normalize.h"

namespace quadrat::gpu::normalize {

namespace {

using Bf16 = __nv_bfloat16;

constexpr unsigned kThreads = 256;
constexpr unsigned kBlocksPerProcessor = 4;
/// Threads of a block that adds up blocks' sums, for one channel each row of them.
constexpr unsigned kChannelsAtOnce = 32, kSlices = 32;
constexpr const char* kAction = "normalise a batch on the GPU";

/// So many that a GPU is full and each block's sums go over many rows.
unsigned most_blocks() {
  int device = 0, processors = 0;
  check(cudaGetDevice(&device), kAction);
  check(cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device), kAction);
  return static_cast<unsigned>(processors) * kBlocksPerProcessor;
}

/// Neighbouring channels of one row: 16 bytes, one load.
template <typename T>
struct Pack {
  static constexpr unsigned kSize = 16 / sizeof(T);
  float v[kSize];
};

__device__ inline Pack<float> load(const float* from) {
  const float4 raw = *reinterpret_cast<const float4*>(from);
  return {{raw.x, raw.y, raw.z, raw.w}};
}

__device__ inline Pack<Bf16> load(const Bf16* from) {
  const uint4 raw = *reinterpret_cast<const uint4*>(from);
  const unsigned words[4] = {raw.x, raw.y, raw.z, raw.w};
  Pack<Bf16> values;
#pragma unroll
  for (unsigned i = 0; i < 4; ++i) {
    values.v[2 * i] = __uint_as_float(words[i] << 16);
    values.v[2 * i + 1] = __uint_as_float(words[i] & 0xFFFF0000U);
  }
  return values;
}

__device__ inline void store(float* to, const Pack<float>& values) {
  *reinterpret_cast<float4*>(to) = {values.v[0], values.v[1], values.v[2], values.v[3]};
}

__device__ inline void store(Bf16* to, const Pack<Bf16>& values) {
  unsigned words[4];
#pragma unroll
  for (unsigned i = 0; i < 4; ++i) {
    const __nv_bfloat162 pair = __floats2bfloat162_rn(values.v[2 * i], values.v[2 * i + 1]);
    words[i] = *reinterpret_cast<const unsigned*>(&pair);
  }
  *reinterpret_cast<uint4*>(to) = {words[0], words[1], words[2], words[3]};
}

/// A row of float32 parameters, for the channels of a pack.
template <typename T>
__device__ Pack<T> parameters(const float* from) {
  Pack<T> values;
#pragma unroll
  for (unsigned i = 0; i < Pack<T>::kSize; ++i) values.v[i] = from[i];
  return values;
}

/// One byte for each channel of a pack.
template <typename T>
struct Places {
  static constexpr unsigned kWords = Pack<T>::kSize / 4;
  unsigned words[kWords];
  __device__ unsigned of(unsigned i) const { return words[i / 4] >> (8 * (i % 4)) & 0xFFU; }
};

template <typename T>
__device__ Places<T> load_places(const std::uint8_t* from) {
  Places<T> places;
#pragma unroll
  for (unsigned i = 0; i < Places<T>::kWords; ++i)
    places.words[i] = reinterpret_cast<const unsigned*>(from)[i];
  return places;
}

/// A thread's channels, and its place among the rows that a block takes at once.
template <typename T>
struct Lane {
  unsigned rows_at_once, row, channel;
  bool is_idle;

  __device__ explicit Lane(unsigned channels) {
    const unsigned lanes = channels / Pack<T>::kSize;
    rows_at_once = kThreads / lanes;
    row = threadIdx.x / lanes;
    channel = threadIdx.x % lanes * Pack<T>::kSize;
    is_idle = row >= rows_at_once;
  }
};

struct Shape {
  unsigned images, height, width, channels, padding;  // padding: of what is pooled
  __device__ __host__ unsigned rows() const { return images * height * width; }
};

/// body(row) for the rows of this thread.
template <typename T, typename Body>
__device__ void for_rows(const Shape& shape, const Lane<T>& lane, const Body& body) {
  if (lane.is_idle) return;
  const unsigned step = gridDim.x * lane.rows_at_once, rows = shape.rows();
#pragma unroll 4
  for (unsigned row = blockIdx.x * lane.rows_at_once + lane.row; row < rows; row += step) body(row);
}

/// body(image, y, x) for the positions of this thread: a block takes a line of the map at once.
template <typename T, typename Body>
__device__ void for_positions(const Shape& shape, const Lane<T>& lane, const Body& body) {
  if (lane.is_idle) return;
  for (unsigned line = blockIdx.x; line < shape.images * shape.height; line += gridDim.x) {
    const unsigned image = line / shape.height, y = line % shape.height;
#pragma unroll 4
    for (unsigned x = lane.row; x < shape.width; x += lane.rows_at_once) body(image, y, x);
  }
}

/// Two sums a channel over a block's rows. @param out float32 [blocks, 2, C]
template <typename T>
__device__ void write_block_sums(const Lane<T>& lane, unsigned channels, const Pack<T>& first,
                                 const Pack<T>& second, float* out) {
  __shared__ float shared[kThreads * Pack<T>::kSize];
#pragma unroll
  for (unsigned which = 0; which < 2; ++which) {
    __syncthreads();
    if (!lane.is_idle) {
#pragma unroll
      for (unsigned i = 0; i < Pack<T>::kSize; ++i)
        shared[lane.row * channels + lane.channel + i] = which == 0 ? first.v[i] : second.v[i];
    }
    __syncthreads();
    for (unsigned c = threadIdx.x; c < channels; c += kThreads) {
      float sum = 0;
      for (unsigned row = 0; row < lane.rows_at_once; ++row) sum += shared[row * channels + c];
      out[(std::size_t{2} * blockIdx.x + which) * channels + c] = sum;
    }
  }
}

template <typename T>
__global__ void __launch_bounds__(kThreads, kBlocksPerProcessor)
    sum_moments(Shape shape, const T* x, float* out) {
  const Lane<T> lane(shape.channels);
  const Pack<T> pivot = load(x + lane.channel);
  Pack<T> sum{}, squares{};
  for_rows(shape, lane, [&](unsigned row) {
    const Pack<T> values = load(x + std::size_t{row} * shape.channels + lane.channel);
#pragma unroll
    for (unsigned i = 0; i < Pack<T>::kSize; ++i) {
      const float d = values.v[i] - pivot.v[i];
      sum.v[i] += d;
      squares.v[i] += d * d;
    }
  });
  write_block_sums(lane, shape.channels, sum, squares, out);
}

/// Adds up blocks' sums, in float64: in threads with y == 0 both are the channel's.
__device__ void add_blocks(const float* sums, unsigned blocks, unsigned channels, double& first,
                           double& second) {
  __shared__ double shared[2][kSlices][kChannelsAtOnce];
  const unsigned c = blockIdx.x * kChannelsAtOnce + threadIdx.x;
  first = second = 0;
#pragma unroll 4
  for (unsigned block = threadIdx.y; block < blocks; block += kSlices) {
    first += static_cast<double>(sums[std::size_t{2} * block * channels + c]);
    second += static_cast<double>(sums[(std::size_t{2} * block + 1) * channels + c]);
  }
  shared[0][threadIdx.y][threadIdx.x] = first;
  shared[1][threadIdx.y][threadIdx.x] = second;
  __syncthreads();
  if (threadIdx.y != 0) return;
  for (unsigned slice = 1; slice < kSlices; ++slice) {
    first += shared[0][slice][threadIdx.x];
    second += shared[1][slice][threadIdx.x];
  }
}

template <typename T>
__global__ void add_moments(const float* sums, unsigned blocks, unsigned channels, const T* x,
                            double rows, double* moments) {
  double sum = 0, squares = 0;
  add_blocks(sums, blocks, channels, sum, squares);
  if (threadIdx.y != 0) return;
  const unsigned c = blockIdx.x * kChannelsAtOnce + threadIdx.x;
  const auto pivot = static_cast<double>(static_cast<float>(x[c]));
  moments[c] = sum + rows * pivot;
  moments[channels + c] = squares + 2 * pivot * sum + rows * pivot * pivot;
  if (c == 0) moments[2 * channels] = rows;
}

__global__ void add_gradient_sums(const float* sums, unsigned blocks, unsigned channels,
                                  double* out) {
  double g = 0, gx = 0;
  add_blocks(sums, blocks, channels, g, gx);
  if (threadIdx.y != 0) return;
  const unsigned c = blockIdx.x * kChannelsAtOnce + threadIdx.x;
  out[c] = g;
  out[channels + c] = gx;
}

__global__ void make_fold(unsigned channels, const double* moments, Layer layer, double epsilon,
                          double momentum, Fold out) {
  const unsigned c = blockIdx.x * blockDim.x + threadIdx.x;
  if (c >= channels) return;
  double mean = static_cast<double>(layer.running_mean[c]),
         var = static_cast<double>(layer.running_var[c]);
  if (moments != nullptr) {
    const double rows = moments[2 * channels];
    const double old_mean = mean, old_var = var;
    mean = moments[c] / rows;
    var = moments[channels + c] / rows - mean * mean;
    if (var < 0) var = 0;
    const double unbiased = rows > 1 ? rows / (rows - 1) : 1;
    layer.running_mean[c] = static_cast<float>((1 - momentum) * old_mean + momentum * mean);
    layer.running_var[c] = static_cast<float>((1 - momentum) * old_var + momentum * unbiased * var);
  }
  const double invstd = 1 / sqrt(var + epsilon);
  const double scale = static_cast<double>(layer.weight[c]) * invstd;
  out.mean[c] = static_cast<float>(mean);
  out.invstd[c] = static_cast<float>(invstd);
  out.scale[c] = static_cast<float>(scale);
  out.offset[c] = static_cast<float>(static_cast<double>(layer.bias[c]) - scale * mean);
}

__global__ void make_bias_fold(unsigned channels, const float* bias, Fold out) {
  const unsigned c = blockIdx.x * blockDim.x + threadIdx.x;
  if (c >= channels) return;
  out.mean[c] = 0;
  out.invstd[c] = 1;
  out.scale[c] = 1;
  out.offset[c] = bias[c];
}

/// Not a number stays one.
__device__ inline float rectified(float value) { return value < 0 ? 0 : value; }

template <typename T, bool kRelu, bool kShortcut>
__global__ void __launch_bounds__(kThreads, kBlocksPerProcessor)
    apply_kernel(Shape shape, const T* x, const T* shortcut, Fold fold, T* y) {
  const Lane<T> lane(shape.channels);
  if (lane.is_idle) return;
  const Pack<T> scale = parameters<T>(fold.scale + lane.channel);
  const Pack<T> offset = parameters<T>(fold.offset + lane.channel);
  for_rows(shape, lane, [&](unsigned row) {
    const std::size_t at = std::size_t{row} * shape.channels + lane.channel;
    Pack<T> values = load(x + at);
    Pack<T> added{};
    if constexpr (kShortcut) added = load(shortcut + at);
#pragma unroll
    for (unsigned i = 0; i < Pack<T>::kSize; ++i) {
      values.v[i] = values.v[i] * scale.v[i] + offset.v[i];
      if constexpr (kShortcut) values.v[i] += added.v[i];
      if constexpr (kRelu) values.v[i] = rectified(values.v[i]);
    }
    store(y + at, values);
  });
}

template <typename T>
__global__ void __launch_bounds__(kThreads, kBlocksPerProcessor)
    apply_pooled_kernel(Shape in, Shape out, const T* x, Fold fold, T* y, std::uint8_t* place) {
  const Lane<T> lane(in.channels);
  if (lane.is_idle) return;
  const Pack<T> scale = parameters<T>(fold.scale + lane.channel);
  const Pack<T> offset = parameters<T>(fold.offset + lane.channel);
  for_positions(out, lane, [&](unsigned image, unsigned oy, unsigned ox) {
    Pack<T> best{};
    unsigned where[Pack<T>::kSize];
#pragma unroll
    for (unsigned& one : where) one = 255;
#pragma unroll
    for (unsigned k = 0; k < 9; ++k) {
      // Wraps where it is before the first row or column: then it is no less than the side.
      const unsigned iy = 2 * oy + k / 3 - in.padding, ix = 2 * ox + k % 3 - in.padding;
      if (iy >= in.height || ix >= in.width) continue;
      const Pack<T> values =
          load(x + (std::size_t{image} * in.height * in.width + iy * in.width + ix) * in.channels +
               lane.channel);
#pragma unroll
      for (unsigned i = 0; i < Pack<T>::kSize; ++i) {
        const float value = values.v[i] * scale.v[i] + offset.v[i];
        const bool is_better = value > best.v[i] || value != value;
        best.v[i] = is_better ? value : best.v[i];
        where[i] = is_better ? k : where[i];
      }
    }
    const std::size_t at =
        (std::size_t{image} * out.height * out.width + oy * out.width + ox) * out.channels +
        lane.channel;
    store(y + at, best);
    Places<T> places{};
#pragma unroll
    for (unsigned i = 0; i < Pack<T>::kSize; ++i) places.words[i / 4] |= where[i] << (8 * (i % 4));
#pragma unroll
    for (unsigned i = 0; i < Places<T>::kWords; ++i)
      reinterpret_cast<unsigned*>(place + at)[i] = places.words[i];
  });
}

/// Which way the gradient that passed is found.
enum class From {
  kAll,     ///< there is no maximum with 0
  kInput,   ///< where x * scale + offset is positive
  kOutput,  ///< where y is positive
  kPlace,   ///< where a window has its maximum
};

template <typename T>
struct Passed {
  const T* dy;
  const T* dy2;
  const T* y;
  const std::uint8_t* place;
};

/// Pooled maps are gone over in squares of 2x2 positions, each of which the same 2x2 windows see:
/// in padded coordinates, row 2a + 1 is the middle of window a, row 2a + 2 its last and the first
/// of window a + 1. Windows are read once for four positions, all at once. body(element offset, g,
/// x) for the positions of this thread.
template <typename T, typename Body>
__device__ void for_pooled_gradients(const Shape& shape, const Lane<T>& lane,
                                     const Passed<T>& passed, const T* x, const Body& body) {
  if (lane.is_idle) return;
  const int height = static_cast<int>((shape.height + 2 * shape.padding - 3) / 2 + 1);
  const int width = static_cast<int>((shape.width + 2 * shape.padding - 3) / 2 + 1);
  const unsigned before = 1 - shape.padding;  // without padding row 0 is a last one
  const unsigned lines = (shape.height + before + 1) / 2, across = (shape.width + before + 1) / 2;
  for (unsigned line = blockIdx.x; line < shape.images * lines; line += gridDim.x) {
    const unsigned image = line / lines;
    const int oy = static_cast<int>(line % lines) - static_cast<int>(before);
    for (unsigned square = lane.row; square < across; square += lane.rows_at_once) {
      const int ox = static_cast<int>(square) - static_cast<int>(before);
      Pack<T> dy[4];
      Places<T> places[4];
#pragma unroll
      for (int window = 0; window < 4; ++window) {
        const int wy = oy + window / 2, wx = ox + window % 2;
        dy[window] = {};
        places[window] = {};
        if (wy < 0 || wx < 0 || wy >= height || wx >= width) continue;
        const std::size_t at = (std::size_t{image} * static_cast<unsigned>(height * width) +
                                static_cast<unsigned>(wy * width + wx)) *
                                   shape.channels +
                               lane.channel;
        dy[window] = load(passed.dy + at);
        places[window] = load_places<T>(passed.place + at);
      }
#pragma unroll
      for (int position = 0; position < 4; ++position) {
        const int i = position / 2, j = position % 2;
        const unsigned iy = static_cast<unsigned>(2 * oy + 1 + i) - shape.padding;
        const unsigned ix = static_cast<unsigned>(2 * ox + 1 + j) - shape.padding;
        if (iy >= shape.height || ix >= shape.width) continue;
        Pack<T> g{};
#pragma unroll
        for (int window = 0; window < 4; ++window) {
          const int wy = window / 2, wx = window % 2;
          if ((wy == 1 && i == 0) || (wx == 1 && j == 0)) continue;
          const unsigned k = (wy == 0 ? 1 + i : 0) * 3 + (wx == 0 ? 1 + j : 0);
#pragma unroll
          for (unsigned c = 0; c < Pack<T>::kSize; ++c)
            g.v[c] += places[window].of(c) == k ? dy[window].v[c] : 0.0F;
        }
        const std::size_t at =
            (std::size_t{image} * shape.height * shape.width + iy * shape.width + ix) *
                shape.channels +
            lane.channel;
        body(at, g, load(x + at));
      }
    }
  }
}

/// body(element offset, g, x) for the rows of this thread.
template <From kFrom, typename T, typename Body>
__device__ void for_gradients(const Shape& shape, const Lane<T>& lane, const Passed<T>& passed,
                              const T* x, const Fold& fold, const Body& body) {
  if constexpr (kFrom == From::kPlace) {
    for_pooled_gradients(shape, lane, passed, x, body);
  } else {
    Pack<T> scale{}, offset{};
    if constexpr (kFrom == From::kInput) {
      if (lane.is_idle) return;
      scale = parameters<T>(fold.scale + lane.channel);
      offset = parameters<T>(fold.offset + lane.channel);
    }
    for_rows(shape, lane, [&](unsigned row) {
      const std::size_t at = std::size_t{row} * shape.channels + lane.channel;
      Pack<T> g = load(passed.dy + at);
      const Pack<T> values = load(x + at);
      if constexpr (kFrom == From::kInput) {
#pragma unroll
        for (unsigned i = 0; i < Pack<T>::kSize; ++i)
          g.v[i] = values.v[i] * scale.v[i] + offset.v[i] > 0 ? g.v[i] : 0.0F;
      } else if constexpr (kFrom == From::kOutput) {
        const Pack<T> output = load(passed.y + at);
        Pack<T> other{};
        if (passed.dy2 != nullptr) other = load(passed.dy2 + at);
#pragma unroll
        for (unsigned i = 0; i < Pack<T>::kSize; ++i)
          g.v[i] = output.v[i] > 0 ? g.v[i] + other.v[i] : 0.0F;
      }
      body(at, g, values);
    });
  }
}

/// As many as the registers that each way takes allow for.
constexpr unsigned blocks_per_processor(From from) {
  if (from == From::kPlace) return 2;
  return from == From::kInput ? 3 : kBlocksPerProcessor;
}

template <From kFrom, typename T>
__global__ void __launch_bounds__(kThreads, blocks_per_processor(kFrom))
    sum_gradient(Shape shape, Passed<T> gradient, const T* x, Fold fold, T* passed, float* out) {
  const Lane<T> lane(shape.channels);
  Pack<T> sum_g{}, sum_gx{};
  const Pack<T> mean = parameters<T>(fold.mean + lane.channel);
  for_gradients<kFrom>(shape, lane, gradient, x, fold,
                       [&](std::size_t at, const Pack<T>& g, const Pack<T>& values) {
                         if (passed != nullptr) store(passed + at, g);
#pragma unroll
                         for (unsigned i = 0; i < Pack<T>::kSize; ++i) {
                           sum_g.v[i] += g.v[i];
                           sum_gx.v[i] += g.v[i] * (values.v[i] - mean.v[i]);
                         }
                       });
  write_block_sums(lane, shape.channels, sum_g, sum_gx, out);
}

__global__ void make_coefficients(unsigned channels, const double* mine, const double* all,
                                  const double* rows, const float* weight, Fold fold,
                                  Coefficients out) {
  const unsigned c = blockIdx.x * blockDim.x + threadIdx.x;
  if (c >= channels) return;
  const auto invstd = static_cast<double>(fold.invstd[c]);
  const double a = static_cast<double>(weight[c]) * invstd;
  out.bias_gradient[c] = static_cast<float>(mine[c]);
  out.weight_gradient[c] = static_cast<float>(mine[channels + c] * invstd);
  out.abc[c] = static_cast<float>(a);
  out.abc[channels + c] =
      all == nullptr ? 0 : static_cast<float>(-all[channels + c] / *rows * a * invstd * invstd);
  out.abc[2 * channels + c] = all == nullptr ? 0 : static_cast<float>(-all[c] / *rows * a);
}

template <From kFrom, typename T>
__global__ void __launch_bounds__(kThreads, blocks_per_processor(kFrom))
    gradient_input_kernel(Shape shape, Passed<T> gradient, const T* x, Fold fold, const float* abc,
                          T* dx) {
  const Lane<T> lane(shape.channels);
  if (lane.is_idle) return;
  const Pack<T> a = parameters<T>(abc + lane.channel);
  const Pack<T> b = parameters<T>(abc + shape.channels + lane.channel);
  // a g + b (x - mean) + c: what does not depend on the row is added up once.
  Pack<T> rest = parameters<T>(abc + 2 * shape.channels + lane.channel);
  const Pack<T> mean = parameters<T>(fold.mean + lane.channel);
  for_gradients<kFrom>(
      shape, lane, gradient, x, fold, [&](std::size_t at, const Pack<T>& g, const Pack<T>& values) {
        Pack<T> result;
#pragma unroll
        for (unsigned i = 0; i < Pack<T>::kSize; ++i)
          result.v[i] = a.v[i] * g.v[i] + (b.v[i] * (values.v[i] - mean.v[i]) + rest.v[i]);
        store(dx + at, result);
      });
}

Shape shape_of(const Map& map) {
  return {static_cast<unsigned>(map.images), static_cast<unsigned>(map.height),
          static_cast<unsigned>(map.width), static_cast<unsigned>(map.channels),
          static_cast<unsigned>(map.pool_padding)};
}

unsigned blocks_for(const Map& map) {
  const auto at_once = static_cast<std::int64_t>(kThreads) * 16 /
                       (map.element == Element::kBf16 ? 2 : 4) / map.channels;
  const std::int64_t wanted = (map.rows() + 4 * at_once - 1) / (4 * at_once);
  return static_cast<unsigned>(std::clamp<std::int64_t>(wanted, 1, most_blocks()));
}

/// body(T*) for the map's type.
template <typename Body>
void for_type(Element element, const Body& body) {
  if (element == Element::kBf16) {
    body(static_cast<Bf16*>(nullptr));
  } else {
    body(static_cast<float*>(nullptr));
  }
}

/// body(integral constant of From).
template <typename Body>
void for_source(const Gradient& gradient, const Body& body) {
  if (gradient.place != nullptr) return body(std::integral_constant<From, From::kPlace>());
  if (!gradient.relu) return body(std::integral_constant<From, From::kAll>());
  if (gradient.y == nullptr) return body(std::integral_constant<From, From::kInput>());
  body(std::integral_constant<From, From::kOutput>());
}

template <typename T>
Passed<T> passed_of(const Gradient& gradient) {
  return {static_cast<const T*>(gradient.dy), static_cast<const T*>(gradient.dy2),
          static_cast<const T*>(gradient.y), gradient.place};
}

/// A thread a channel.
Launch for_each_channel(std::int64_t channels, CUstream_st* stream) {
  constexpr unsigned kFew = 64;
  return {(static_cast<unsigned>(channels) + kFew - 1) / kFew, kFew, stream};
}

/// A column of threads a channel, over blocks' sums.
Launch for_each_channel_of_blocks(std::int64_t channels, CUstream_st* stream) {
  return {static_cast<unsigned>(channels) / kChannelsAtOnce, dim3(kChannelsAtOnce, kSlices),
          stream};
}

}  // namespace

std::int64_t scratch_floats(std::int64_t channels) {
  return std::int64_t{2} * most_blocks() * channels;
}

void moments(const Map& map, const void* x, float* scratch, double* moments, CUstream_st* stream) {
  if (map.images == 0) {
    const auto bytes = (2 * static_cast<std::size_t>(map.channels) + 1) * sizeof(double);
    return check(cudaMemsetAsync(moments, 0, bytes, stream), kAction);
  }
  const unsigned blocks = blocks_for(map);
  const auto shape = shape_of(map);
  for_type(map.element, [&]<typename T>(T* /*type*/) {
    const auto* values = static_cast<const T*>(x);
    launch(kAction, {blocks, kThreads, stream}, sum_moments<T>, shape, values, scratch);
    launch(kAction, for_each_channel_of_blocks(map.channels, stream), add_moments<T>, scratch,
           blocks, shape.channels, values, static_cast<double>(map.rows()), moments);
  });
}

void fold(std::int64_t channels, const double* moments, const Layer& layer, double epsilon,
          double momentum, const Fold& fold, CUstream_st* stream) {
  launch(kAction, for_each_channel(channels, stream), make_fold, static_cast<unsigned>(channels),
         moments, layer, epsilon, momentum, fold);
}

void fold_bias(std::int64_t channels, const float* bias, const Fold& fold, CUstream_st* stream) {
  launch(kAction, for_each_channel(channels, stream), make_bias_fold,
         static_cast<unsigned>(channels), bias, fold);
}

void apply(const Map& map, const void* x, const void* shortcut, bool relu, const Fold& fold,
           void* y, CUstream_st* stream) {
  if (map.images == 0) return;
  const unsigned blocks = blocks_for(map);
  const auto shape = shape_of(map);
  for_type(map.element, [&]<typename T>(T* /*type*/) {
    const auto run = [&](auto kernel) {
      launch(kAction, {blocks, kThreads, stream}, kernel, shape, static_cast<const T*>(x),
             static_cast<const T*>(shortcut), fold, static_cast<T*>(y));
    };
    if (relu) {
      run(shortcut != nullptr ? apply_kernel<T, true, true> : apply_kernel<T, true, false>);
    } else {
      run(shortcut != nullptr ? apply_kernel<T, false, true> : apply_kernel<T, false, false>);
    }
  });
}

void apply_pooled(const Map& map, const void* x, const Fold& fold, void* y, std::uint8_t* place,
                  CUstream_st* stream) {
  if (map.images == 0) return;
  Map out = map;
  out.height = map.pooled(map.height);
  out.width = map.pooled(map.width);
  const auto lines =
      static_cast<unsigned>(std::min<std::int64_t>(out.images * out.height, most_blocks()));
  for_type(map.element, [&]<typename T>(T* /*type*/) {
    launch(kAction, {lines, kThreads, stream}, apply_pooled_kernel<T>, shape_of(map), shape_of(out),
           static_cast<const T*>(x), fold, static_cast<T*>(y), place);
  });
}

void gradient_sums(const Map& map, const Gradient& gradient, const void* x, const Fold& fold,
                   void* passed, float* scratch, double* sums, CUstream_st* stream) {
  if (map.images == 0) {
    const auto bytes = 2 * static_cast<std::size_t>(map.channels) * sizeof(double);
    return check(cudaMemsetAsync(sums, 0, bytes, stream), kAction);
  }
  const unsigned blocks = blocks_for(map);
  const auto shape = shape_of(map);
  for_type(map.element, [&]<typename T>(T* /*type*/) {
    for_source(gradient, [&](auto from) {
      launch(kAction, {blocks, kThreads, stream}, sum_gradient<from(), T>, shape,
             passed_of<T>(gradient), static_cast<const T*>(x), fold, static_cast<T*>(passed),
             scratch);
    });
  });
  launch(kAction, for_each_channel_of_blocks(map.channels, stream), add_gradient_sums, scratch,
         blocks, shape.channels, sums);
}

void coefficients(std::int64_t channels, const double* mine, const double* all, const double* rows,
                  const float* weight, const Fold& fold, const Coefficients& out,
                  CUstream_st* stream) {
  launch(kAction, for_each_channel(channels, stream), make_coefficients,
         static_cast<unsigned>(channels), mine, all, rows, weight, fold, out);
}

void gradient_input(const Map& map, const Gradient& gradient, const void* x, const Fold& fold,
                    const float* abc, void* dx, CUstream_st* stream) {
  if (map.images == 0) return;
  const unsigned blocks = blocks_for(map);
  const auto shape = shape_of(map);
  for_type(map.element, [&]<typename T>(T* /*type*/) {
    for_source(gradient, [&](auto from) {
      launch(kAction, {blocks, kThreads, stream}, gradient_input_kernel<from(), T>, shape,
             passed_of<T>(gradient), static_cast<const T*>(x), fold, abc, static_cast<T*>(dx));
    });
  });
}

}  // namespace quadrat::gpu::normalize
