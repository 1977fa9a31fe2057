#include "quadrat/model/batch_norm.h"

#include <fmt/format.h>

#include "quadrat/base/error.h"
#include "quadrat/base/text.h"

namespace quadrat {

namespace {

constexpr double kEpsilon = 1e-5;
constexpr double kMomentum = 0.1;

torch::Tensor per_channel(const torch::Tensor& values) { return values.view({1, -1, 1, 1}); }

/// Statistics over every rank's part of the batch, in the forward and the backward pass.
class SyncBatchNorm : public torch::autograd::Function<SyncBatchNorm> {
 public:
  static torch::Tensor forward(torch::autograd::AutogradContext* context, const torch::Tensor& input,
                               const torch::Tensor& weight, const torch::Tensor& bias, torch::Tensor running_mean,
                               torch::Tensor running_var, const SumOverRanks* sum) {
    const auto channels = input.size(1);
    const auto count = static_cast<double>(input.numel() / channels);
    // Each rank's variance is taken about its own mean and only their combination is a difference of squares, in
    // float64: no cancellation however large the mean is.
    auto mean_64 = torch::zeros({channels}, input.options().dtype(torch::kDouble));
    auto var_64 = torch::zeros_like(mean_64);
    if (input.numel() > 0) {  // a rank without tiles in this batch still takes part in the sums
      const auto [local_var, local_mean] = at::var_mean(input.to(torch::kFloat), at::IntArrayRef{0, 2, 3}, 0, true);
      mean_64 = local_mean.flatten().to(torch::kDouble);
      var_64 = local_var.flatten().to(torch::kDouble);
    }
    auto sums = torch::cat({mean_64 * count, (var_64 + mean_64 * mean_64) * count,
                            torch::full({1}, count, mean_64.options())});
    (*sum)(sums);
    const double total = sums[2 * channels].item<double>();
    const auto mean = sums.narrow(0, 0, channels) / total;
    const auto var = (sums.narrow(0, channels, channels) / total - mean * mean).clamp_min(0);
    const auto invstd = (var + kEpsilon).rsqrt().to(torch::kFloat);
    const auto mean_32 = mean.to(torch::kFloat);
    const auto var_32 = var.to(torch::kFloat);

    const double unbiased = total > 1 ? total / (total - 1) : 1;
    running_mean.mul_(1 - kMomentum).add_(mean_32, kMomentum);
    running_var.mul_(1 - kMomentum).add_(var_32, kMomentum * unbiased);

    context->save_for_backward({input, weight, mean_32, invstd});
    context->saved_data["total"] = total;
    context->saved_data["sum"] = reinterpret_cast<std::int64_t>(sum);
    return at::batch_norm(input, weight, bias, mean_32, var_32, false, kMomentum, kEpsilon, false);
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 torch::autograd::variable_list gradients) {
    const auto saved = context->get_saved_variables();
    const auto &input = saved[0], &weight = saved[1], &mean = saved[2], &invstd = saved[3];
    const double total = context->saved_data["total"].toDouble();
    const auto* sum = reinterpret_cast<const SumOverRanks*>(context->saved_data["sum"].toInt());

    const auto gradient = gradients[0].to(torch::kFloat);
    const auto centred = input.to(torch::kFloat) - per_channel(mean);
    const auto sum_dy = gradient.sum({0, 2, 3});
    const auto sum_dy_centred = (gradient * centred).sum({0, 2, 3});
    auto sums = torch::cat({sum_dy, sum_dy_centred}).to(torch::kDouble);
    (*sum)(sums);
    const auto channels = mean.size(0);
    const auto mean_dy = (sums.narrow(0, 0, channels) / total).to(torch::kFloat);
    const auto mean_dy_centred = (sums.narrow(0, channels, channels) / total).to(torch::kFloat);
    auto grad_input = gradient - per_channel(mean_dy);
    grad_input.addcmul_(centred, per_channel(invstd * invstd * mean_dy_centred), -1);
    grad_input.mul_(per_channel(invstd * weight));
    // The parameters' gradients are this rank's share: the gradient reducer adds the others'.
    return {grad_input.to(input.scalar_type()), sum_dy_centred * invstd, sum_dy, {}, {}, {}};
  }
};

}  // namespace

BatchNormMode parse_batch_norm(std::string_view name) {
  if (name == "sync") return BatchNormMode::kSync;
  if (name == "local") return BatchNormMode::kLocal;
  if (name == "frozen") return BatchNormMode::kFrozen;
  throw UsageError(fmt::format("--batch_norm is '{}', but must be sync, local or frozen", printable(name)));
}

BatchNormImpl::BatchNormImpl(std::int64_t channels) {
  weight = register_parameter("weight", torch::ones({channels}));
  bias = register_parameter("bias", torch::zeros({channels}));
  running_mean = register_buffer("running_mean", torch::zeros({channels}));
  running_var = register_buffer("running_var", torch::ones({channels}));
  num_batches_tracked = register_buffer("num_batches_tracked", torch::zeros({}, torch::kLong));
}

void BatchNormImpl::set_mode(BatchNormMode mode, SumOverRanks sum) {
  mode_ = mode;
  sum_ = std::move(sum);
}

torch::Tensor BatchNormImpl::forward(const torch::Tensor& input) {
  const bool training = is_training() && mode_ != BatchNormMode::kFrozen;
  if (training) num_batches_tracked.add_(1);
  if (training && mode_ == BatchNormMode::kSync) {
    return SyncBatchNorm::apply(input, weight, bias, running_mean, running_var, &sum_);
  }
  return at::batch_norm(input, weight, bias, running_mean, running_var, training, kMomentum, kEpsilon, false);
}

}  // namespace quadrat
