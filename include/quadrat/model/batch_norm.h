#pragma once

#include <torch/torch.h>

#include <functional>
#include <string_view>
#include <utility>

namespace quadrat {

/// torchvision's, whose networks these are.
inline constexpr double kBatchNormEpsilon = 1e-5;
inline constexpr double kBatchNormMomentum = 0.1;

/// Where a training batch's statistics come from.
enum class BatchNormMode {
  kSync,    ///< the whole global batch: N ranks compute what one rank would
  kLocal,   ///< each rank's part of it, as PyTorch's DistributedDataParallel by default
  kFrozen,  ///< the pretrained running statistics, which stay as they are
};

/// @throws UsageError
BatchNormMode parse_batch_norm(std::string_view name);

/// Sums a tensor over all ranks, in place.
using SumOverRanks = std::function<void(torch::Tensor&)>;

/// Batch normalisation over [N, C, H, W] with torchvision's parameter and buffer names (Ioffe and
/// Szegedy, 2015). Equals torch::nn::BatchNorm2d of the whole batch where
/// the mode is kSync or there is one rank. Collective in training mode with kSync: ranks must call
/// it in the same order.
///
/// What follows a normalisation in a residual network is done in the same pass over memory, which
/// is what these layers cost: two passes over the input forward and two backward, for
/// normalisation, shortcut, ReLU and pooling together. That holds for channels-last tensors with a
/// multiple of 64 channels in host memory, and for float32 and bf16 on a GPU; elsewhere the same
/// numbers come from ATen's operators one after the other.
class BatchNormImpl : public torch::nn::Module {
 public:
  explicit BatchNormImpl(std::int64_t channels);

  torch::Tensor forward(const torch::Tensor& input);

  /// max(0, forward(input) + shortcut). @param shortcut of the input's shape, or undefined
  torch::Tensor forward_relu(const torch::Tensor& input, const torch::Tensor& shortcut = {});

  /// forward_relu's output for each of two readers, as the next block's convolutions and its
  /// shortcut are: their gradients need no addition of its own on a GPU.
  std::pair<torch::Tensor, torch::Tensor> forward_relu_twice(const torch::Tensor& input,
                                                             const torch::Tensor& shortcut);

  /// The maximum of forward_relu(input) over 3x3 windows, stride 2, padding 1.
  torch::Tensor forward_relu_pool(const torch::Tensor& input);

  /// @param sum needed for kSync
  void set_mode(BatchNormMode mode, SumOverRanks sum);

  /// Whether the next forward takes its statistics from its input.
  bool uses_batch_statistics() const { return is_training() && mode_ != BatchNormMode::kFrozen; }

  /// What the statistics are summed over ranks by; null where they are not.
  const SumOverRanks* sum_over_ranks() const {
    return mode_ == BatchNormMode::kSync ? &sum_ : nullptr;
  }

  torch::Tensor weight, bias;                                    ///< [C]
  torch::Tensor running_mean, running_var, num_batches_tracked;  ///< [C], [C], scalar int64

 private:
  BatchNormMode mode_ = BatchNormMode::kLocal;
  SumOverRanks sum_;
};
TORCH_MODULE(BatchNorm);

}  // namespace quadrat
