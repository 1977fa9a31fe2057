#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>

#include "../score/normalise_on_gpu.h"
#include "quadrat/gpu/augment.h"

namespace quadrat::score {

namespace {

torch::Tensor normalise(const torch::Tensor& bytes, const TileTransform& transform,
                        const InputBlocks& blocks, torch::ScalarType dtype) {
  const c10::cuda::CUDAGuard guard(bytes.device());
  gpu::Format format = gpu::format_of(transform, blocks);
  format.tiles = bytes.const_data_ptr<std::uint8_t>();
  auto out = torch::empty({bytes.size(0), blocks.channels, blocks.side, blocks.side},
                          torch::TensorOptions(dtype)
                              .device(bytes.device())
                              .memory_format(torch::MemoryFormat::ChannelsLast));
  gpu::augment(nullptr, bytes.size(0), format,
               dtype == torch::kBFloat16 ? gpu::Element::kBf16 : gpu::Element::kFloat32,
               out.mutable_data_ptr(),
               c10::cuda::getCurrentCUDAStream(bytes.device().index()).stream());
  return out;
}

const bool kIsThere = [] {
  normalise_on_gpu = normalise;
  return true;
}();

}  // namespace

}  // namespace quadrat::score
