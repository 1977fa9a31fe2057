#include "quadrat/fit/logistic_regression.h"

#include <algorithm>
#include <cstring>
#include <functional>
#include <span>
#include <vector>

#include "quadrat/fit/lbfgs.h"

namespace quadrat::fit {

namespace {

/// Rows that are widened to float64 at a time: of 4096 features, 4 MB, which the cache holds.
constexpr std::int64_t kBlockRows = 128;
constexpr double kTolerance = 1e-7;  // nats per standard deviation of a feature

void sum_over_ranks(torch::Tensor& values, const mpi::Communicator& ranks) {
  ranks.sum(std::span(values.data_ptr<double>(), static_cast<std::size_t>(values.numel())));
}

void for_each_block(
    const torch::Tensor& features,
    const std::function<void(std::int64_t first, const torch::Tensor& rows)>& work) {
  for (std::int64_t first = 0; first < features.size(0); first += kBlockRows) {
    const std::int64_t rows = std::min(kBlockRows, features.size(0) - first);
    work(first, features.narrow(0, first, rows).to(torch::kDouble));
  }
}

struct Moments {
  torch::Tensor mean;   ///< [width]
  torch::Tensor scale;  ///< [width]: 1 / standard deviation, 0 where there is none
};

Moments moments_of(const torch::Tensor& features, double rows, const mpi::Communicator& ranks) {
  Moments result;
  result.mean = torch::zeros({features.size(1)}, torch::kDouble);
  for_each_block(features,
                 [&](std::int64_t, const torch::Tensor& block) { result.mean += block.sum(0); });
  sum_over_ranks(result.mean, ranks);
  result.mean /= rows;
  auto squares = torch::zeros_like(result.mean);
  for_each_block(features, [&](std::int64_t, const torch::Tensor& block) {
    squares += (block - result.mean).square().sum(0);
  });
  sum_over_ranks(squares, ranks);
  const auto deviation = (squares / rows).sqrt();
  // What float32 features differ by when they are all the same but for rounding.
  const auto varies = deviation > result.mean.abs() * 1e-7;
  result.scale = torch::where(varies, deviation.reciprocal(), torch::zeros_like(deviation));
  return result;
}

}  // namespace

LogisticRegression fit_logistic_regression(const torch::Tensor& features,
                                           const torch::Tensor& labels, std::int64_t classes,
                                           double l2, std::int64_t max_iterations,
                                           const mpi::Communicator& ranks) {
  const torch::InferenceMode guard;
  const std::int64_t width = features.size(1);
  const auto rows = static_cast<double>(ranks.sum(features.size(0)));
  const Moments moments = moments_of(features, rows, ranks);

  // What is varied: weights of standardised features, then biases of centred ones.
  const std::int64_t weights = classes * width;
  const auto view = [&](const std::vector<double>& x) {
    return torch::from_blob(const_cast<double*>(x.data()), {weights + classes}, torch::kDouble);
  };
  const auto unscaled = [&](const torch::Tensor& x) {
    return x.narrow(0, 0, weights).view({classes, width}) * moments.scale;
  };
  const auto uncentred = [&](const torch::Tensor& x, const torch::Tensor& weight) {
    return x.narrow(0, weights, classes) - weight.mv(moments.mean);
  };

  const Objective objective = [&](const std::vector<double>& x, std::vector<double>& gradient) {
    mpi::stop_if_asked(ranks);
    const torch::Tensor at = view(x);
    const torch::Tensor weight = unscaled(at);
    const torch::Tensor bias = uncentred(at, weight);
    const torch::Tensor weight_t = weight.t();
    // Summed over rows: the gradient by weight and by bias, then the cross-entropy.
    auto sums = torch::zeros({weights + classes + 1}, torch::kDouble);
    auto by_weight = sums.narrow(0, 0, weights).view({classes, width});
    auto by_bias = sums.narrow(0, weights, classes);
    auto loss = sums.narrow(0, weights + classes, 1);
    for_each_block(features, [&](std::int64_t first, const torch::Tensor& block) {
      const auto label = labels.narrow(0, first, block.size(0)).view({-1, 1});
      const auto log_p = torch::log_softmax(torch::addmm(bias, block, weight_t), 1);
      loss -= log_p.gather(1, label).sum();
      auto error = log_p.exp();
      error.scatter_add_(1, label, torch::full({block.size(0), 1}, -1.0, torch::kDouble));
      by_weight.addmm_(error.t(), block);
      by_bias += error.sum(0);
    });
    sum_over_ranks(sums, ranks);
    const torch::Tensor free = at.narrow(0, 0, weights).view({classes, width});
    auto out = view(gradient);
    out.narrow(0, 0, weights)
        .view({classes, width})
        .copy_((by_weight - by_bias.outer(moments.mean)) * moments.scale / rows + l2 * free);
    out.narrow(0, weights, classes).copy_(by_bias / rows);
    return loss.item<double>() / rows + l2 / 2 * free.square().sum().item<double>();
  };

  const Minimum minimum =
      minimise(objective, std::vector<double>(static_cast<std::size_t>(weights + classes)),
               max_iterations, kTolerance);
  LogisticRegression result;
  const torch::Tensor at = view(minimum.x);
  result.weight = unscaled(at);
  result.bias = uncentred(at, result.weight);
  result.bias -= result.bias.mean();
  result.objective = minimum.value;
  result.iterations = minimum.iterations;
  result.has_converged = minimum.has_converged;
  return result;
}

}  // namespace quadrat::fit
