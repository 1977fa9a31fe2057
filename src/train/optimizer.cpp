#include "quadrat/train/optimizer.h"

#include <cmath>

namespace quadrat {

Optimizer::Optimizer(std::vector<torch::Tensor> parameters, const Options& options)
    : options_(options), parameters_(std::move(parameters)) {
  const torch::NoGradGuard no_gradients;
  for (const auto& parameter : parameters_) {
    momentum_.push_back(torch::zeros_like(parameter));
    if (options_.kind != "adamw") continue;
    second_.push_back(torch::zeros_like(parameter));
    step_count_.push_back(
        torch::zeros({}, torch::TensorOptions(torch::kFloat).device(parameter.device())));
  }
}

void Optimizer::step(double learning_rate, const torch::Tensor& unless) {
  const torch::NoGradGuard no_gradients;
  std::vector<torch::Tensor> gradients;
  gradients.reserve(parameters_.size());
  for (const auto& parameter : parameters_) {
    TORCH_CHECK(parameter.grad().defined(), "every trained parameter has a gradient");
    // The fused kernels walk memory: all that belongs to a parameter must be laid out alike.
    gradients.push_back(parameter.grad().strides() == parameter.strides()
                            ? parameter.grad()
                            : torch::empty_like(parameter).copy_(parameter.grad()));
  }
  const auto found_inf = unless.defined() ? std::optional(unless) : std::nullopt;
  if (options_.kind == "adamw") {
    at::_foreach_add_(step_count_, 1);
    at::_fused_adamw_(parameters_, gradients, momentum_, second_, {}, step_count_, learning_rate,
                      0.9, 0.999, options_.weight_decay, 1e-8, /*amsgrad=*/false,
                      /*maximize=*/false, /*grad_scale=*/std::nullopt, found_inf);
    if (unless.defined())
      at::_foreach_sub_(step_count_, std::vector<torch::Tensor>(step_count_.size(), unless));
  } else {
    at::_fused_sgd_(
        parameters_, gradients, momentum_, options_.weight_decay, options_.momentum, learning_rate,
        /*dampening=*/0, /*nesterov=*/false, /*maximize=*/false, /*is_first_step=*/steps_ == 0,
        /*grad_scale=*/std::nullopt, found_inf);
  }
  ++steps_;
}

torch::Tensor Optimizer::clip(double limit) {
  const torch::NoGradGuard no_gradients;
  std::vector<torch::Tensor> gradients;
  for (const auto& parameter : parameters_) gradients.push_back(parameter.grad());
  const auto norm = torch::stack(at::_foreach_norm(gradients)).norm();
  const auto scale = (limit / norm.to(torch::kDouble)).clamp_max(1);
  at::_foreach_mul_(gradients, scale.to(norm.scalar_type()));
  return norm;
}

std::vector<torch::Tensor> Optimizer::state() const {
  std::vector<torch::Tensor> all = momentum_;
  all.insert(all.end(), second_.begin(), second_.end());
  all.insert(all.end(), step_count_.begin(), step_count_.end());
  return all;
}

void Optimizer::restore(const std::vector<torch::Tensor>& state, std::int64_t steps) {
  const torch::NoGradGuard no_gradients;
  const auto mine = this->state();
  TORCH_CHECK(mine.size() == state.size(), "as many tensors as were saved");
  for (std::size_t i = 0; i < mine.size(); ++i) mine[i].copy_(state[i]);
  steps_ = steps;
}

}  // namespace quadrat
