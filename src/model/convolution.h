#pragma once

#include <torch/torch.h>

#include <cstdint>

namespace quadrat {

/// at::conv2d, with gradients: on a CPU, in float32 and, where it has no tiles of bf16 products, in
/// bf16, by Winograd's algorithm if that has such a convolution.
/// @param input [N, C, H, W] @param weight [K, C, size, size] @param bias [K] or undefined
torch::Tensor convolution_of(const torch::Tensor& input, const torch::Tensor& weight,
                             const torch::Tensor& bias, std::int64_t stride, std::int64_t padding);

}  // namespace quadrat
