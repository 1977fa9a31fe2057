#include "../on_gpu.h"

namespace quadrat {

bool has_gpu_kernels(const torch::Tensor& /*input*/) { return false; }

std::vector<torch::Tensor> normalized_on_gpu(BatchNormImpl& /*norm*/, const torch::Tensor& input,
                                             const torch::Tensor& /*shortcut*/, After /*after*/,
                                             bool /*is_read_twice*/) {
  return {input};
}

torch::Tensor rectified_on_gpu(const torch::Tensor& values, const torch::Tensor& /*bias*/,
                               bool /*is_pooled*/) {
  return values;
}

torch::Tensor dropped_on_gpu(const torch::Tensor& values, const torch::Tensor& /*keys*/,
                             std::uint64_t /*layer*/) {
  return values;
}

}  // namespace quadrat
