#include <cuda_bf16.h>

#include "launch.h"
#include "quadrat/base/random.h"
#include "quadrat/gpu/dropout.h"

namespace quadrat::gpu {

namespace {

constexpr unsigned kThreads = 256;
constexpr unsigned kBits = 64;  // of a number
constexpr unsigned kAtOnce = 8;

/// A thread takes 8 neighbouring values: all of one number's bits.
template <typename T>
__global__ void dropout_kernel(const T* values, unsigned columns, std::size_t count,
                               const std::int64_t* keys, std::uint64_t layer, T* out) {
  const std::size_t first = (std::size_t{blockIdx.x} * kThreads + threadIdx.x) * kAtOnce;
  if (first >= count) return;
  const std::size_t row = first / columns;
  const auto column = static_cast<unsigned>(first % columns);
  KeyedRandom random(kStreamDropout, static_cast<std::uint64_t>(keys[row]), layer);
  random.skip(column / kBits);
  const std::uint64_t bits = random.next() >> (column % kBits);
#pragma unroll
  for (unsigned i = 0; i < kAtOnce; ++i) {
    const float factor = (bits >> i & 1U) != 0 ? 2.0F : 0.0F;
    out[first + i] = static_cast<T>(static_cast<float>(values[first + i]) * factor);
  }
}

}  // namespace

void dropout(const void* values, Element element, std::int64_t rows, std::int64_t columns,
             const std::int64_t* keys, std::uint64_t layer, void* out, CUstream_st* stream) {
  const auto count = static_cast<std::size_t>(rows * columns);
  if (count == 0) return;
  const auto blocks = static_cast<unsigned>((count / kAtOnce + kThreads - 1) / kThreads);
  const auto run = [&]<typename T>(T* to) {
    launch("drop out values on the GPU", {blocks, kThreads, stream}, dropout_kernel<T>,
           static_cast<const T*>(values), static_cast<unsigned>(columns), count, keys, layer, to);
  };
  if (element == Element::kBf16) {
    run(static_cast<__nv_bfloat16*>(out));
  } else {
    run(static_cast<float*>(out));
  }
}

}  // namespace quadrat::gpu
