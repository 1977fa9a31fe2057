#include "quadrat/model/batch_norm.h"

#include <gtest/gtest.h>

#include "quadrat/mpi/communicator.h"

namespace quadrat {
namespace {

SumOverRanks sum_over(const mpi::Communicator& ranks) {
  return [&ranks](torch::Tensor& sums) {
    ranks.sum(std::span(sums.data_ptr<double>(), static_cast<std::size_t>(sums.numel())));
  };
}

enum class After { kNothing, kRelu, kShortcutRelu, kReluPool };

struct Case {
  std::int64_t channels;  ///< 64 and 128 have kernels, 4 has not
  torch::ScalarType type;
  After after;
  std::int64_t height, width;
};

class Synchronised : public testing::TestWithParam<Case> {};

/// Over ranks that hold uneven parts = torch's own layers over the whole batch, gradients and
/// buffers too.
TEST_P(Synchronised, equals_one_large_batch) {
  const auto [channels, type, after, height, width] = GetParam();
  const auto ranks = mpi::Communicator::world();
  const int n = ranks.size();
  std::vector<std::int64_t> begin{0};
  for (int r = 0; r < n; ++r) begin.push_back(begin.back() + 2 + r);
  torch::manual_seed(3);
  const auto map = [&](std::int64_t h, std::int64_t w) {
    return torch::randn({begin.back(), channels, h, w}, torch::kDouble)
        .contiguous(torch::MemoryFormat::ChannelsLast);
  };
  // A mean far from 0 is what a careless sum of squares loses.
  const auto whole = (map(height, width) * 0.5 + 30).to(type);
  const auto shortcut = map(height, width).to(type);
  const bool pooled = after == After::kReluPool;
  const auto output_weight = pooled ? map((height + 1) / 2, (width + 1) / 2) : map(height, width);

  // The reference computes in float64 from the same, rounded, numbers.
  torch::nn::BatchNorm2d reference(channels);
  reference->to(torch::kDouble);
  reference->weight.data().copy_(torch::randn({channels}, torch::kDouble));
  reference->bias.data().copy_(torch::randn({channels}, torch::kDouble));
  auto reference_input = whole.to(torch::kDouble).clone().requires_grad_();
  auto reference_shortcut = shortcut.to(torch::kDouble).clone().requires_grad_();
  auto reference_output = reference(reference_input);
  if (after == After::kShortcutRelu) reference_output = reference_output + reference_shortcut;
  if (after != After::kNothing) reference_output = reference_output.relu();
  if (pooled) reference_output = torch::max_pool2d(reference_output, 3, 2, 1);
  (reference_output * output_weight).sum().backward();

  BatchNorm norm(channels);
  const auto parameter_type = type == torch::kDouble ? torch::kDouble : torch::kFloat;
  norm->to(parameter_type);
  norm->weight.data().copy_(reference->weight.data());
  norm->bias.data().copy_(reference->bias.data());
  norm->set_mode(BatchNormMode::kSync, sum_over(ranks));
  const auto r = static_cast<std::size_t>(ranks.rank());
  const auto mine = [&](const torch::Tensor& tensor) {
    return tensor.narrow(0, begin[r], begin[r + 1] - begin[r]);
  };
  auto input = mine(whole).clone().requires_grad_();
  auto added = mine(shortcut).clone().requires_grad_();
  const auto output = after == After::kNothing        ? norm(input)
                      : after == After::kRelu         ? norm->forward_relu(input)
                      : after == After::kShortcutRelu ? norm->forward_relu(input, added)
                                                      : norm->forward_relu_pool(input);
  ASSERT_EQ(output.scalar_type(), type);
  (output.to(torch::kDouble) * mine(output_weight)).sum().backward();
  auto weight_grad = norm->weight.grad().to(torch::kDouble).contiguous();
  auto bias_grad = norm->bias.grad().to(torch::kDouble).contiguous();
  ranks.sum(std::span(weight_grad.data_ptr<double>(), static_cast<std::size_t>(channels)));
  ranks.sum(std::span(bias_grad.data_ptr<double>(), static_cast<std::size_t>(channels)));

  // About a mean of 30 with a spread of 0.5, inputs carry 30 / 0.5 units of rounding: 60 * 6e-8 in
  // float32. In bfloat16 the inputs are exact by construction and what is rounded is each result,
  // to 2^-9 of values up to ~8.
  const double unit = type == torch::kDouble ? 1e-12 : type == torch::kFloat ? 4e-5 : 0.02;
  const auto near = [&](const torch::Tensor& ours, const torch::Tensor& theirs, double factor,
                        const char* what) {
    const double difference = (ours.to(torch::kDouble) - theirs).abs().max().item<double>();
    EXPECT_LE(difference, unit * factor * std::max(1.0, theirs.abs().max().item<double>())) << what;
  };
  near(output, mine(reference_output), 1, "output");
  near(norm->running_mean, reference->running_mean, 1, "running mean");
  near(norm->running_var, reference->running_var, 1, "running variance");
  // Where two of a window's values, or a value and 0, differ by less than the rounding, a gradient
  // may go elsewhere: of bfloat16's values that is one in a hundred, a tenth of the norm; of
  // float32's one in a hundred thousand.
  const bool ties = type != torch::kDouble && after != After::kNothing;
  const auto close = [&](const torch::Tensor& ours, const torch::Tensor& theirs, const char* what) {
    if (!ties) return near(ours, theirs, 10, what);
    const auto difference = (ours.to(torch::kDouble) - theirs).norm().item<double>();
    EXPECT_LE(difference, (type == torch::kFloat ? 0.01 : 0.1) * theirs.norm().item<double>())
        << what;
  };
  close(weight_grad, reference->weight.grad(), "gradient of weight");
  close(bias_grad, reference->bias.grad(), "gradient of bias");
  close(input.grad(), mine(reference_input.grad()), "gradient of input");
  if (after == After::kShortcutRelu)
    close(added.grad(), mine(reference_shortcut.grad()), "gradient of shortcut");
}

std::vector<Case> cases() {
  std::vector<Case> all;
  for (const auto type : {torch::kFloat, torch::kDouble, torch::kBFloat16}) {
    for (const auto after :
         {After::kNothing, After::kRelu, After::kShortcutRelu, After::kReluPool}) {
      all.push_back({64, type, after, 5, 6});
    }
    all.push_back(
        {128, type, After::kShortcutRelu, 50, 49});  // several blocks of rows, and several parts
    all.push_back({64, type, After::kReluPool, 4, 7});
  }
  all.push_back({4, torch::kFloat, After::kNothing, 5, 6});
  all.push_back({4, torch::kDouble, After::kShortcutRelu, 5, 6});
  all.push_back({4, torch::kDouble, After::kReluPool, 5, 6});
  return all;
}
INSTANTIATE_TEST_SUITE_P(BatchNorm, Synchronised, testing::ValuesIn(cases()));

/// What is not a number must not be hidden by the rectification: a diverged run stops by its loss.
TEST(BatchNorm, not_a_number_stays_one) {
  for (const auto type : {torch::kFloat, torch::kBFloat16}) {
    BatchNorm norm(64);
    norm->eval();
    const auto input = torch::full({1, 64, 3, 3}, std::nan(""), type);
    EXPECT_TRUE(norm->forward_relu(input).isnan().all().item<bool>());
    EXPECT_TRUE(norm->forward_relu_pool(input).isnan().all().item<bool>());
  }
}

TEST(BatchNorm, a_rank_without_tiles_takes_part) {
  const auto ranks = mpi::Communicator::world();
  if (ranks.size() == 1) return;
  for (const std::int64_t channels : {2, 64}) {
    BatchNorm norm(channels);
    norm->set_mode(BatchNormMode::kSync, sum_over(ranks));
    auto input = torch::ones({ranks.is_root() ? 0 : 3, channels, 4, 4}).requires_grad_();
    norm(input).sum().backward();
    EXPECT_TRUE(torch::allclose(norm->running_mean, torch::full({channels}, 0.1F)));
  }
}

TEST(BatchNorm, frozen_uses_and_keeps_the_running_statistics) {
  for (const std::int64_t channels : {2, 64}) {
    BatchNorm norm(channels);
    norm->running_mean.fill_(3);
    norm->running_var.fill_(4);
    norm->set_mode(BatchNormMode::kFrozen, {});
    norm->train();
    auto input = torch::full({1, channels, 2, 2}, 5.0F).requires_grad_();
    const auto output = norm->forward_relu(input);
    EXPECT_TRUE(torch::allclose(output, torch::ones_like(output)));
    output.sum().backward();
    EXPECT_TRUE(torch::allclose(input.grad(), torch::full_like(input, 0.5)));
    EXPECT_TRUE(torch::allclose(norm->weight.grad(), torch::full({channels}, 4.0F)));
    EXPECT_TRUE((norm->running_mean == 3).all().item<bool>());
    EXPECT_EQ(norm->num_batches_tracked.item<std::int64_t>(), 0);
  }
}

}  // namespace
}  // namespace quadrat
