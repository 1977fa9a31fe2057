#include "quadrat/gpu/augment.h"
#include "quadrat/gpu/augment_block.h"
#include "quadrat/gpu/check.h"

namespace quadrat::gpu {

namespace {

/// A power of two, as the pairwise sum wants it.
constexpr unsigned kThreads = 512;
constexpr unsigned kLookup = 256 * 3;

/// A block a tile: its mean grey has to be known before its first pixel is finished. The tile is
/// read a second time out of the cache then, which holds a block's 150 kB.
template <typename T>
__global__ void __launch_bounds__(kThreads)
    augment_kernel(const Sample* samples, Format format, T* out) {
  __shared__ float lookup[kLookup];
  __shared__ double sums[kThreads];
  for (unsigned i = threadIdx.x; i < kLookup; i += kThreads) lookup[i] = format.lookup[i];
  const Sample sample = samples[blockIdx.x];
  const AugmentThread thread(sample, format, lookup, threadIdx.x, kThreads);
  float mean_grey = 0;
  if (sample.draw.crops) {  // alike in all of the block
    sums[threadIdx.x] = thread.grey();
    for (unsigned half = kThreads / 2; half > 0; half /= 2) {
      __syncthreads();
      add_pairwise(sums, threadIdx.x, half);
    }
  }
  __syncthreads();
  const double pixels = static_cast<double>(format.side_px) * format.side_px;
  if (sample.draw.crops) mean_grey = static_cast<float>(sums[0] / pixels);
  thread.write(mean_grey, out + std::size_t{3} * format.side_px * format.side_px * blockIdx.x);
}

}  // namespace

void augment(const Sample* samples, std::int64_t count, const Format& format, Element element,
             void* out, CUstream_st* stream) {
  if (count == 0) return;  // a grid of no blocks is an error to CUDA
  const auto blocks = static_cast<unsigned>(count);
  if (element == Element::kBf16) {
    augment_kernel<<<blocks, kThreads, 0, stream>>>(samples, format, static_cast<Bf16*>(out));
  } else {
    augment_kernel<<<blocks, kThreads, 0, stream>>>(samples, format, static_cast<float*>(out));
  }
  check(cudaGetLastError(), "augment tiles on the GPU");
}

}  // namespace quadrat::gpu
