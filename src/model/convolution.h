#pragma once

#include <torch/torch.h>

#include <cstdint>

namespace quadrat {

/// at::conv2d, with gradients: on a CPU by Winograd's algorithm, if that has such a convolution, in
/// float32 and where it is quicker in bf16.
/// @param input [N, C, H, W] @param weight [K, C, size, size] @param bias [K] or undefined
torch::Tensor convolution_of(const torch::Tensor& input, const torch::Tensor& weight,
                             const torch::Tensor& bias, std::int64_t stride, std::int64_t padding);

}  // namespace quadrat
