#include "quadrat/model/batch_norm.h"

#include <gtest/gtest.h>

#include "quadrat/mpi/communicator.h"

namespace quadrat {
namespace {

/// Synchronised over ranks that hold uneven parts = torch's own over the whole batch, gradients and buffers too.
TEST(BatchNorm, synchronised_equals_one_large_batch) {
  const auto ranks = mpi::Communicator::world();
  const int n = ranks.size();
  std::vector<std::int64_t> begin{0};
  for (int r = 0; r < n; ++r) begin.push_back(begin.back() + 2 + r);
  torch::manual_seed(3);
  // A mean far from 0 is what a careless sum of squares loses.
  const auto whole = torch::randn({begin.back(), 4, 5, 6}) * 0.5 + 30;
  const auto weight_of_output = torch::randn_like(whole);

  torch::nn::BatchNorm2d reference(4);
  reference->weight.data().copy_(torch::tensor({1.0, 2.0, 0.5, -1.0}));
  auto reference_input = whole.clone().requires_grad_();
  auto reference_output = reference(reference_input);
  (reference_output * weight_of_output).sum().backward();

  BatchNorm norm(4);
  norm->weight.data().copy_(reference->weight.data());
  norm->set_mode(BatchNormMode::kSync, [&](torch::Tensor& sums) {
    ranks.sum(std::span(sums.data_ptr<double>(), static_cast<std::size_t>(sums.numel())));
  });
  const auto r = static_cast<std::size_t>(ranks.rank());
  const auto mine = [&](const torch::Tensor& tensor) { return tensor.narrow(0, begin[r], begin[r + 1] - begin[r]); };
  auto input = mine(whole).clone().requires_grad_();
  const auto output = norm(input);
  (output * mine(weight_of_output)).sum().backward();
  auto weight_grad = norm->weight.grad().to(torch::kDouble).contiguous();
  ranks.sum(std::span(weight_grad.data_ptr<double>(), 4));

  // float32 about a mean of 30 with a spread of 0.5: inputs carry 30 * 2^-24 / 0.5 of rounding, results ten times that.
  EXPECT_TRUE(torch::allclose(output, mine(reference_output), 1e-4, 4e-5));
  EXPECT_TRUE(torch::allclose(input.grad(), mine(reference_input.grad()), 1e-4, 2e-4));
  EXPECT_TRUE(torch::allclose(weight_grad.to(torch::kFloat), reference->weight.grad(), 1e-4, 1e-3));
  EXPECT_TRUE(torch::allclose(norm->running_mean, reference->running_mean, 1e-5));
  EXPECT_TRUE(torch::allclose(norm->running_var, reference->running_var, 1e-4));
}

TEST(BatchNorm, a_rank_without_tiles_takes_part) {
  const auto ranks = mpi::Communicator::world();
  if (ranks.size() == 1) return;
  BatchNorm norm(2);
  norm->set_mode(BatchNormMode::kSync, [&](torch::Tensor& sums) {
    ranks.sum(std::span(sums.data_ptr<double>(), static_cast<std::size_t>(sums.numel())));
  });
  auto input = torch::ones({ranks.is_root() ? 0 : 3, 2, 4, 4}).requires_grad_();
  norm(input).sum().backward();
  EXPECT_TRUE(norm->running_mean.isfinite().all().item<bool>());
  EXPECT_TRUE(torch::allclose(norm->running_mean, torch::full({2}, 0.1F)));
}

TEST(BatchNorm, frozen_uses_and_keeps_the_running_statistics) {
  BatchNorm norm(2);
  norm->running_mean.fill_(3);
  norm->set_mode(BatchNormMode::kFrozen, {});
  norm->train();
  const auto output = norm(torch::full({1, 2, 2, 2}, 3.0F));
  EXPECT_TRUE(torch::allclose(output, torch::zeros_like(output)));
  EXPECT_TRUE((norm->running_mean == 3).all().item<bool>());
}

}  // namespace
}  // namespace quadrat
