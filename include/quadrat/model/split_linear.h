#pragma once

#include <torch/torch.h>

#include <cstdint>
#include <vector>

#include "quadrat/model/batch_norm.h"

namespace quadrat {

/// The ranks that share a layer's outputs among them.
struct LayerRanks {
  int rank = 0;
  int size = 1;
  SumOverRanks sum;
};

/// A parameter of which each rank trains some rows.
struct SplitParameter {
  torch::Tensor own;    ///< the leaf that is trained: this rank's rows, or their bfloat16 copy
  torch::Tensor rows;   ///< this rank's rows of the whole: its memory
  torch::Tensor whole;  ///< float32; the others' rows are out of date while training goes on
};

/// torch::nn::Linear, whose outputs may be dealt to ranks: each multiplies the rows of all ranks
/// with its part of the weights and gives the others their rows' share (Krizhevsky, "One weird
/// trick for parallelizing convolutional neural networks", 2014). The gradient of that part is then
/// whole without a sum over ranks, and only one rank has to keep moments for it and step it: where
/// a layer's weights outnumber its inputs and outputs a thousand times, that is nearly all its
/// work. To its caller the layer takes and gives this rank's rows, as it does unsplit.
class SplitLinearImpl : public torch::nn::LinearImpl {
 public:
  using LinearImpl::LinearImpl;

  /// From here on collective, forward and backward: ranks must call it in the same order, also
  /// those without rows.
  /// @param dtype what to multiply in: of bfloat16 the layer keeps a copy of the weights, which
  /// whoever steps them keeps up to date
  void split(const LayerRanks& ranks, torch::ScalarType dtype);

  /// After the weights were written to.
  void update_copies();

  /// [n, in] -> [n, out], the ranks' n as they are.
  torch::Tensor forward(const torch::Tensor& input);

  /// Of so many outputs, the first that a rank has.
  static std::int64_t first_output(std::int64_t outputs, std::int64_t rank, std::int64_t ranks) {
    return outputs * rank / ranks;
  }

  /// Weight and bias; none where the layer is not split.
  const std::vector<SplitParameter>& parts() const { return parts_; }

 private:
  LayerRanks ranks_;
  std::int64_t first_output_ = 0;
  std::vector<SplitParameter> parts_;
};
TORCH_MODULE(SplitLinear);

}  // namespace quadrat
