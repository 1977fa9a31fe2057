// bench_gpu_augment: bytes/s that the augmentation's kernel moves, beside a copy on the card.
//
// Rate of a kernel: (bytes read once + bytes written) / time, medians of 20 runs over 1,024 tiles
// of 224 px that lie in the card's memory, for pixels and for either network's blocks. Of the copy
// likewise, of as many bytes as the kernel writes.
#include "quadrat/gpu/augment.h"

#include <cuda_runtime.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <vector>

#include "quadrat/tiles/augment.h"

namespace {

using quadrat::gpu::Element;

void check(cudaError_t error) {
  if (error == cudaSuccess) return;
  std::fprintf(stderr, "bench_gpu_augment: error: %s; this needs a GPU\n",
               cudaGetErrorString(error));
  std::exit(2);
}

template <typename T>
T* on_card(const std::vector<T>& values) {
  T* there = nullptr;
  check(cudaMalloc(&there, values.size() * sizeof(T)));
  check(cudaMemcpy(there, values.data(), values.size() * sizeof(T), cudaMemcpyHostToDevice));
  return there;
}

double median_seconds(const std::function<void()>& work) {
  cudaEvent_t begin{}, end{};
  check(cudaEventCreate(&begin));
  check(cudaEventCreate(&end));
  std::vector<float> milliseconds(21);
  for (float& one : milliseconds) {
    check(cudaEventRecord(begin));
    work();
    check(cudaEventRecord(end));
    check(cudaEventSynchronize(end));
    check(cudaEventElapsedTime(&one, begin, end));
  }
  milliseconds.erase(milliseconds.begin());  // the first one warms up
  std::sort(milliseconds.begin(), milliseconds.end());
  return milliseconds[milliseconds.size() / 2] / 1e3;
}

}  // namespace

int main() {
  constexpr std::uint32_t kSide = 224;
  constexpr std::size_t kTiles = 1024, kValues = std::size_t{3} * kSide * kSide;
  std::vector<std::uint8_t> rgb(kTiles * kValues);
  for (std::size_t i = 0; i < rgb.size(); ++i)
    rgb[i] = static_cast<std::uint8_t>(i * 2654435761U >> 13);
  const std::uint8_t* tiles = on_card(rgb);
  void* out = nullptr;
  void* from = nullptr;
  check(cudaMalloc(&out, rgb.size() * 6));
  check(cudaMalloc(&from, rgb.size() * 4));
  const double copy_rate =
      2.0 * static_cast<double>(rgb.size()) * 2 / median_seconds([&] {
        check(cudaMemcpyAsync(out, from, rgb.size() * 2, cudaMemcpyDeviceToDevice));
      });
  std::printf("copy on the card                  %7.0f GB/s\n", copy_rate / 1e9);
  struct Layout {
    const char* name;
    quadrat::InputBlocks blocks;
  };
  const Layout layouts[] = {
      {"pixels", quadrat::InputBlocks::plain(kSide)},
      {"resnet18", quadrat::InputBlocks::for_convolution(kSide, 7, 2, 3)},
      {"alexnet", quadrat::InputBlocks::for_convolution(kSide, 11, 4, 2)},
  };
  for (const auto augment :
       {quadrat::Augment::kNone, quadrat::Augment::kDihedral, quadrat::Augment::kSample}) {
    const quadrat::TileTransform transform(kSide, {0.485F, 0.456F, 0.406F},
                                           {0.229F, 0.224F, 0.225F}, augment, 1);
    std::vector<quadrat::gpu::Sample> samples(kTiles);
    for (std::size_t i = 0; i < kTiles; ++i)
      samples[i] = {tiles + i * kValues, transform.draw(1, i)};
    const auto* there = on_card(samples);
    for (const Layout& layout : layouts) {
      quadrat::gpu::Format format = quadrat::gpu::format_of(transform, layout.blocks);
      format.crops = augment == quadrat::Augment::kSample;
      const std::size_t values =
          kTiles * layout.blocks.side * layout.blocks.side * layout.blocks.channels;
      for (const Element element : {Element::kBf16, Element::kFloat32}) {
        const std::size_t bytes = element == Element::kBf16 ? 2 : 4;
        const double seconds = median_seconds(
            [&] { quadrat::gpu::augment(there, kTiles, format, element, out, nullptr); });
        const double rate = static_cast<double>(rgb.size() + values * bytes) / seconds;
        std::printf("%-9s %-9s to %-8s   %7.0f GB/s, %.0f %% of the copy\n",
                    std::string(to_string(augment)).c_str(), layout.name,
                    element == Element::kBf16 ? "bf16" : "float32", rate / 1e9,
                    100 * rate / copy_rate);
      }
    }
  }
}
