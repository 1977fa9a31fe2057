#pragma once

#include <torch/torch.h>

#include <cstdint>

namespace quadrat {

/// at::conv2d, with gradients: in float32 on a CPU by Winograd's algorithm where there is one for
/// such a convolution, forward and for the input's gradient.
/// @param input [N, C, H, W] @param weight [K, C, size, size] @param bias [K] or undefined
torch::Tensor convolution_of(const torch::Tensor& input, const torch::Tensor& weight,
                             const torch::Tensor& bias, std::int64_t stride, std::int64_t padding);

}  // namespace quadrat
