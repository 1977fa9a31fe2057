#pragma once

#include <torch/torch.h>

#include <cstdint>
#include <vector>

#include "quadrat/model/batch_norm.h"

/// What the network computes by kernels of our own where it is on a GPU. The functions are in
/// src/cuda, and null until choose_device() has loaded them: before, no tensor is on a GPU.

namespace quadrat {

/// What follows a normalisation in the same pass.
enum class After { kNothing, kRelu, kReluPool };

/// Whether gpu::normalize has kernels for such a map. @param input on a GPU
inline bool (*has_gpu_kernels)(const torch::Tensor& input) = nullptr;

/// Batch norm and what comes after it by those kernels, with gradients. Queued on the current
/// stream: the host waits for nothing, also where statistics are summed over ranks.
/// @return the output, and where `is_read_twice` once more: a reader each, so that their gradients
/// are added up in the same pass as all else
inline std::vector<torch::Tensor> (*normalized_on_gpu)(BatchNormImpl& norm,
                                                       const torch::Tensor& input,
                                                       const torch::Tensor& shortcut, After after,
                                                       bool is_read_twice) = nullptr;

/// max(0, values + bias), and then its maximum over 3x3 windows of stride 2 where `is_pooled`.
/// @param values has_gpu_kernels; @param bias float32 [C]
inline torch::Tensor (*rectified_on_gpu)(const torch::Tensor& values, const torch::Tensor& bias,
                                         bool is_pooled) = nullptr;

/// Network's dropout by gpu::dropout, with its gradient.
/// @param values [rows, columns], columns a multiple of 64 @param keys int64 [rows], on the GPU
inline torch::Tensor (*dropped_on_gpu)(const torch::Tensor& values, const torch::Tensor& keys,
                                       std::uint64_t layer) = nullptr;

}  // namespace quadrat
