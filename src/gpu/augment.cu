#include "crop_block.h"
#include "launch.h"
#include "quadrat/gpu/augment.h"
#include "symmetry_block.h"

namespace quadrat::gpu {

namespace {

constexpr const char* kAction = "augment tiles on the GPU";
constexpr unsigned kSymmetryThreads = 192;
constexpr unsigned kSymmetryBlocks = 6;  // at once on a processor
constexpr unsigned kCropThreads = 256;
static_assert((kCropThreads & (kCropThreads - 1)) == 0, "the pairwise sum wants a power of two");
constexpr unsigned kCropBlocks = 4;

/// A block a strip of a tile.
template <typename P>
__global__ void __launch_bounds__(kSymmetryThreads, kSymmetryBlocks)
    symmetry_kernel(const Sample* samples, Format format, std::size_t values_per_tile,
                    typename P::Value* out) {
  auto* pixels = static_cast<std::uint32_t*>(launch_memory());
  const std::size_t tile_bytes = std::size_t{3} * format.side_px * format.side_px;
  const Sample sample =
      samples != nullptr ? samples[blockIdx.y] : Sample{format.tiles + tile_bytes * blockIdx.y, {}};
  const SymmetryThread thread(sample, format, Strip::of(format, blockIdx.x),
                              {threadIdx.x, kSymmetryThreads});
  thread.load(pixels);
  __syncthreads();
  thread.write<P>(pixels, out + values_per_tile * blockIdx.y);
}

/// A block a tile, which is read a second time out of the cache.
template <typename P>
__global__ void __launch_bounds__(kCropThreads, kCropBlocks)
    crop_kernel(const Sample* samples, Format format, std::size_t values_per_tile,
                typename P::Value* out) {
  auto* sums = static_cast<double*>(launch_memory());
  const CropThread::Shared shared(reinterpret_cast<std::uint32_t*>(sums + kCropThreads),
                                  format.side_px);
  const Sample sample = samples[blockIdx.x];
  const CropThread thread(sample, format, {threadIdx.x, kCropThreads});
  thread.make_tables(shared);
  __syncthreads();
  sums[threadIdx.x] = thread.grey(shared);
  for (unsigned half = kCropThreads / 2; half > 0; half /= 2) {
    __syncthreads();
    add_pairwise(sums, threadIdx.x, half);
  }
  __syncthreads();
  const double pixels = static_cast<double>(format.side_px) * format.side_px;
  const auto mean_grey = static_cast<float>(sums[0] / pixels);
  for (unsigned i = 0; i < Strip::count(format); ++i) {
    const Strip strip = Strip::of(format, i);
    thread.load(strip, shared);
    __syncthreads();
    thread.write<P>(strip, shared, mean_grey, out + values_per_tile * blockIdx.x);
    __syncthreads();
  }
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
    for_layout<T>(format, [&]<typename P>(P /*layout*/) {
      if (format.crops) {
        const std::size_t bytes = kCropThreads * sizeof(double) +
                                  CropThread::Shared::words(format) * sizeof(std::uint32_t);
        launch(kAction, {here, kCropThreads, stream, bytes}, crop_kernel<P>, from, part, values,
               to);
      } else {
        static_assert(kSymmetryThreads % P::kStores == 0);
        const std::size_t bytes = SymmetryThread::shared_words(format) * sizeof(std::uint32_t);
        launch(kAction, {dim3(Strip::count(format), here), kSymmetryThreads, stream, bytes},
               symmetry_kernel<P>, from, part, values, to);
      }
    });
  }
}

}  // namespace

void augment(const Sample* samples, std::int64_t count, const Format& format, Element element,
             void* out, CUstream_st* stream) {
  if (element == Element::kBf16) {
    run(samples, count, format, static_cast<__nv_bfloat16*>(out), stream);
  } else {
    run(samples, count, format, static_cast<float*>(out), stream);
  }
}

}  // namespace quadrat::gpu
