#pragma once

#include <torch/torch.h>

#include <string>
#include <vector>

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

  Optimizer(std::vector<torch::Tensor> parameters, const Options& options);

  /// Uses every parameter's grad(). Waits for no GPU.
  /// @param unless float32 scalar on the parameters' device: where it is 1, parameters and their
  /// moments stay as they are; undefined: never
  void step(double learning_rate, const torch::Tensor& unless = {});

  /// Scales the gradients down where their joint L2 norm exceeds `limit`. Waits for no GPU.
  /// @return the norm before, a scalar on the parameters' device
  torch::Tensor clip(double limit);

  /// What a checkpoint must hold, by reference: the tensors are those in use.
  std::vector<torch::Tensor> state() const;
  /// Copies `state` in, as state() listed it. @param steps steps taken so far
  void restore(const std::vector<torch::Tensor>& state, std::int64_t steps);
  std::int64_t steps() const { return steps_; }

 private:
  Options options_;
  std::vector<torch::Tensor> parameters_;
  std::vector<torch::Tensor> momentum_;    ///< sgd's buffers, adamw's first moments
  std::vector<torch::Tensor> second_;      ///< adamw's second moments
  std::vector<torch::Tensor> step_count_;  ///< adamw's, a float scalar each
  std::int64_t steps_ = 0;
};

}  // namespace quadrat
