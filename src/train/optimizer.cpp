#include "quadrat/train/optimizer.h"

#include <algorithm>
#include <cmath>

namespace quadrat {

namespace {

/// Values of a bfloat16 parameter stepped at once: few enough that what is read of them a second
/// time is still in the cache.
constexpr std::int64_t kAtOnce = std::int64_t{1} << 17;

/// Of another tensor of the whole's shape, the rows that are this rank's.
torch::Tensor rows_in(const torch::Tensor& other, const SplitParameter& part) {
  return other.as_strided(part.rows.sizes(), part.rows.strides(), part.rows.storage_offset());
}

}  // namespace

Optimizer::Optimizer(std::vector<torch::Tensor> parameters, const Options& options,
                     const std::vector<SplitParameter>& split)
    : options_(options), parameters_(std::move(parameters)), values_(parameters_) {
  const torch::NoGradGuard no_gradients;
  std::vector<const SplitParameter*> part_of;
  for (std::size_t i = 0; i < parameters_.size(); ++i) {
    const auto part = std::find_if(split.begin(), split.end(), [&](const SplitParameter& one) {
      return one.own.is_same(parameters_[i]);
    });
    part_of.push_back(part == split.end() ? nullptr : &*part);
    is_split_.push_back(part == split.end() ? 0 : 1);
    if (part != split.end()) values_[i] = part->rows;
  }
  const auto make_moments = [&] {
    std::vector<torch::Tensor> moments;
    for (std::size_t i = 0; i < parameters_.size(); ++i) {
      if (part_of[i] == nullptr) {
        state_.push_back(torch::zeros_like(parameters_[i]));
        moments.push_back(state_.back());
        continue;
      }
      // Room for the whole, of which only what is written takes memory.
      state_.push_back(torch::empty_like(part_of[i]->whole));
      split_state_.push_back(state_.back());
      moments.push_back(rows_in(state_.back(), *part_of[i]).zero_());
    }
    return moments;
  };
  momentum_ = make_moments();
  if (!parameters_.empty() && parameters_[0].is_cuda())
    learning_rate_there_ =
        torch::zeros({}, torch::TensorOptions(torch::kFloat).device(parameters_[0].device()));
  if (options_.kind != "adamw") return;
  second_ = make_moments();
  for (const auto& parameter : parameters_) {
    step_count_.push_back(
        torch::zeros({}, torch::TensorOptions(torch::kFloat).device(parameter.device())));
  }
  state_.insert(state_.end(), step_count_.begin(), step_count_.end());
}

void Optimizer::update(const Update& of, const std::optional<torch::Tensor>& unless) const {
  const auto with = [&](const auto& learning_rate) {
    if (options_.kind == "adamw") {
      at::_fused_adamw_(of.values, of.gradients, of.momentum, of.second, {}, of.step_count,
                        learning_rate, 0.9, 0.999, options_.weight_decay, 1e-8, /*amsgrad=*/false,
                        /*maximize=*/false, /*grad_scale=*/std::nullopt, unless);
    } else {
      at::_fused_sgd_(of.values, of.gradients, of.momentum, options_.weight_decay,
                      options_.momentum, learning_rate, /*dampening=*/0, /*nesterov=*/false,
                      /*maximize=*/false, /*is_first_step=*/steps_ == 1,
                      /*grad_scale=*/std::nullopt, unless);
    }
  };
  if (learning_rate_there_.defined()) {
    with(learning_rate_there_);
  } else {
    with(learning_rate_);
  }
}

void Optimizer::begin_step(double learning_rate) {
  learning_rate_ = learning_rate;
  if (learning_rate_there_.defined()) learning_rate_there_.fill_(learning_rate);
  ++steps_;
}

void Optimizer::queue_step(const torch::Tensor& unless) {
  const torch::NoGradGuard no_gradients;
  const auto found_inf = unless.defined() ? std::optional(unless) : std::nullopt;
  if (!step_count_.empty()) at::_foreach_add_(step_count_, 1);
  Update together;
  for (std::size_t i = 0; i < parameters_.size(); ++i) {
    const auto& parameter = parameters_[i];
    TORCH_CHECK(parameter.grad().defined(), "every trained parameter has a gradient");
    if (parameter.scalar_type() != values_[i].scalar_type()) {
      step_copy(i, found_inf);
      continue;
    }
    together.values.push_back(values_[i]);
    // The fused kernels walk memory: all that belongs to a parameter must be laid out alike.
    together.gradients.push_back(parameter.grad().strides() == parameter.strides()
                                     ? parameter.grad()
                                     : torch::empty_like(parameter).copy_(parameter.grad()));
    together.momentum.push_back(momentum_[i]);
    if (second_.empty()) continue;
    together.second.push_back(second_[i]);
    together.step_count.push_back(step_count_[i]);
  }
  if (!together.values.empty()) update(together, found_inf);
  if (unless.defined() && !step_count_.empty())
    at::_foreach_sub_(step_count_, std::vector<torch::Tensor>(step_count_.size(), unless));
}

/// Steps the values that a bfloat16 parameter is a copy of, and makes the copy anew, in one pass
/// over memory.
void Optimizer::step_copy(std::size_t i, const std::optional<torch::Tensor>& unless) {
  const auto copy = parameters_[i].detach().view(-1), gradient = parameters_[i].grad().view(-1),
             values = values_[i].view(-1), momentum = momentum_[i].view(-1),
             second = second_.empty() ? torch::Tensor() : second_[i].view(-1);
  auto wide = torch::empty({std::min(kAtOnce, values.numel())}, values.options());
  for (std::int64_t at = 0; at < values.numel(); at += kAtOnce) {
    const std::int64_t count = std::min(kAtOnce, values.numel() - at);
    Update some{{values.narrow(0, at, count)},
                {wide.narrow(0, 0, count).copy_(gradient.narrow(0, at, count))},
                {momentum.narrow(0, at, count)},
                {},
                {}};
    if (second.defined()) {
      some.second = {second.narrow(0, at, count)};
      some.step_count = {step_count_[i]};
    }
    update(some, unless);
    copy.narrow(0, at, count).copy_(some.values[0]);
  }
}

torch::Tensor Optimizer::clip(double limit, const SumOverRanks& sum) {
  const torch::NoGradGuard no_gradients;
  std::vector<torch::Tensor> gradients;
  for (const auto& parameter : parameters_) gradients.push_back(parameter.grad());
  auto norms = torch::stack(at::_foreach_norm(gradients, 2, torch::kFloat));
  if (!split_state_.empty()) {
    const auto is_split = torch::tensor(is_split_).to(torch::kBool);
    const auto squares = norms.to(torch::kDouble).square();
    auto of_all = squares * is_split;
    sum(of_all);
    norms = torch::where(is_split, of_all, squares).sqrt().to(norms.scalar_type());
  }
  const auto norm = norms.norm();
  const auto scale = (limit / norm.to(torch::kDouble)).clamp_max(1);
  at::_foreach_mul_(gradients, scale.to(norm.scalar_type()));
  return norm;
}

void Optimizer::restore(const std::vector<torch::Tensor>& state, std::int64_t steps) {
  const torch::NoGradGuard no_gradients;
  TORCH_CHECK(state_.size() == state.size(), "as many tensors as were saved");
  std::vector<torch::Tensor> mine = momentum_;
  mine.insert(mine.end(), second_.begin(), second_.end());
  mine.insert(mine.end(), step_count_.begin(), step_count_.end());
  for (std::size_t i = 0; i < mine.size(); ++i) {
    // Of what is split only this rank's rows: the others' would take memory.
    const bool is_part = mine[i].numel() < state[i].numel();
    mine[i].copy_(
        is_part ? state[i].as_strided(mine[i].sizes(), mine[i].strides(), mine[i].storage_offset())
                : state[i]);
  }
  steps_ = steps;
}

}  // namespace quadrat
