#pragma once

#include <torch/torch.h>

#include <optional>
#include <string>
#include <vector>

#include "quadrat/model/split_linear.h"

namespace quadrat {

/// SGD with momentum or AdamW as torch.optim defines them, each step one fused pass over the
/// parameters (PyTorch's own _fused_sgd_ and _fused_adamw_), since an AlexNet step is otherwise
/// bound by reading 57 million weights five times.
class Optimizer {
 public:
  struct Options {
    std::string kind = "sgd";  ///< sgd or adamw
    double momentum = 0.9;     ///< sgd; adamw's betas are 0.9 and 0.999
    double weight_decay = 0;
  };

  /// @param split those of the parameters of which this rank has some rows
  Optimizer(std::vector<torch::Tensor> parameters, const Options& options,
            const std::vector<SplitParameter>& split = {});

  /// Uses every parameter's grad(). Waits for no GPU.
  /// @param unless float32 scalar on the parameters' device: where it is 1, parameters and their
  /// moments stay as they are; undefined: never
  void step(double learning_rate, const torch::Tensor& unless = {}) {
    begin_step(learning_rate);
    queue_step(unless);
  }
  /// Its two halves: what is new in every step, and what a GPU is given to do, which is the same
  /// from the second step on.
  void begin_step(double learning_rate);
  void queue_step(const torch::Tensor& unless = {});

  /// Scales the gradients down where their joint L2 norm exceeds `limit`. Waits for no GPU.
  /// @param sum adds up what ranks have of the split parameters; collective where it is given
  /// @return the norm before, a scalar on the parameters' device
  torch::Tensor clip(double limit, const SumOverRanks& sum = {});

  /// What a checkpoint must hold, by reference: the tensors are those in use. Of split parameters
  /// they have the whole one's shape, and this rank's rows of it.
  const std::vector<torch::Tensor>& state() const { return state_; }
  /// Copies `state` in, as state() listed it. @param steps steps taken so far
  void restore(const std::vector<torch::Tensor>& state, std::int64_t steps);
  std::int64_t steps() const { return steps_; }
  /// Those of them that are moments of split parameters.
  const std::vector<torch::Tensor>& split_state() const { return split_state_; }

 private:
  /// What a fused step is given.
  struct Update {
    std::vector<torch::Tensor> values, gradients, momentum, second, step_count;
  };
  void update(const Update& of, const std::optional<torch::Tensor>& unless) const;
  void step_copy(std::size_t i, const std::optional<torch::Tensor>& unless);

  Options options_;
  std::vector<torch::Tensor> parameters_;
  std::vector<torch::Tensor>
      values_;  ///< what is stepped: the parameters or what they are copies of
  std::vector<std::int64_t> is_split_;     ///< 1 where the parameter is, else 0
  std::vector<torch::Tensor> momentum_;    ///< sgd's buffers, adamw's first moments
  std::vector<torch::Tensor> second_;      ///< adamw's second moments
  std::vector<torch::Tensor> step_count_;  ///< adamw's, a float scalar each
  std::vector<torch::Tensor>
      state_;  ///< of these three the tensors themselves, or what they are parts of
  std::vector<torch::Tensor> split_state_;
  double learning_rate_ = 0;
  torch::Tensor learning_rate_there_;  ///< float32 scalar, where the parameters are on a GPU
  std::int64_t steps_ = 0;             ///< begun
};

}  // namespace quadrat
