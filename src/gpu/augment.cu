#include "launch.h"
#include "quadrat/gpu/augment.h"
#include "quadrat/gpu/augment_block.h"

namespace quadrat::gpu {

namespace {

constexpr const char* kAction = "augment tiles on the GPU";
constexpr unsigned kStripThreads = 256;
/// A power of two, as the pairwise sum wants it.
constexpr unsigned kCropThreads = 512;
constexpr unsigned kLookup = 256 * 3;

/// A block a strip of a tile.
template <typename T>
__global__ void __launch_bounds__(kStripThreads)
    strip_kernel(const Sample* samples, Format format, std::size_t values_per_tile, T* out) {
  auto* pixels = static_cast<std::uint32_t*>(launch_memory());
  __shared__ float lookup[kLookup];
  const std::size_t tile_bytes = std::size_t{3} * format.side_px * format.side_px;
  const Sample sample =
      samples != nullptr ? samples[blockIdx.y] : Sample{format.tiles + tile_bytes * blockIdx.y, {}};
  const Strip strip = Strip::of(format, blockIdx.x);
  const AugmentThread thread(sample, format, lookup, threadIdx.x, kStripThreads);
  for (unsigned i = threadIdx.x; i < kLookup; i += kStripThreads) lookup[i] = format.lookup[i];
  thread.load(strip, pixels);
  __syncthreads();
  thread.write(strip, pixels, out + values_per_tile * blockIdx.y);
}

/// A block a tile: its mean grey has to be known before its first pixel is finished. The tile is
/// read a second time out of the cache then, which holds a block's 150 kB.
template <typename T>
__global__ void __launch_bounds__(kCropThreads)
    crop_kernel(const Sample* samples, Format format, std::size_t values_per_tile, T* out) {
  __shared__ double sums[kCropThreads];
  const Sample sample = samples[blockIdx.x];
  const AugmentThread thread(sample, format, nullptr, threadIdx.x, kCropThreads);
  sums[threadIdx.x] = thread.grey();
  for (unsigned half = kCropThreads / 2; half > 0; half /= 2) {
    __syncthreads();
    add_pairwise(sums, threadIdx.x, half);
  }
  __syncthreads();
  const double pixels = static_cast<double>(format.side_px) * format.side_px;
  thread.write_crop(static_cast<float>(sums[0] / pixels), out + values_per_tile * blockIdx.x);
}

template <typename T>
void run(const Sample* samples, std::int64_t count, const Format& format, T* out,
         CUstream_st* stream) {
  const InputBlocks& blocks = format.blocks;
  const std::size_t values = std::size_t{blocks.side} * blocks.side * blocks.channels;
  // A grid's second dimension ends at 65,535.
  constexpr std::int64_t kAtOnce = 32768;
  const std::size_t tile_bytes = std::size_t{3} * format.side_px * format.side_px;
  Format part = format;
  for (std::int64_t first = 0; first < count; first += kAtOnce) {
    const auto here = static_cast<unsigned>(count - first < kAtOnce ? count - first : kAtOnce);
    T* to = out + values * static_cast<std::size_t>(first);
    const Sample* from = samples != nullptr ? samples + first : nullptr;
    if (samples == nullptr)
      part.tiles = format.tiles + tile_bytes * static_cast<std::size_t>(first);
    if (format.crops) {
      launch(kAction, {here, kCropThreads, stream}, crop_kernel<T>, from, part, values, to);
    } else {
      const std::size_t bytes = Strip::shared_words(format) * sizeof(std::uint32_t);
      launch(kAction, {dim3(Strip::count(format), here), kStripThreads, stream, bytes},
             strip_kernel<T>, from, part, values, to);
    }
  }
}

}  // namespace

void augment(const Sample* samples, std::int64_t count, const Format& format, Element element,
             void* out, CUstream_st* stream) {
  if (element == Element::kBf16) {
    run(samples, count, format, static_cast<Bf16*>(out), stream);
  } else {
    run(samples, count, format, static_cast<float*>(out), stream);
  }
}

}  // namespace quadrat::gpu
