#include "quadrat/model/split_linear.h"

#include <gtest/gtest.h>

#include "quadrat/comm/all_reduce.h"
#include "quadrat/mpi/communicator.h"

namespace quadrat {
namespace {

struct Layer {
  Layer(const mpi::Communicator& ranks, torch::ScalarType dtype)
      : all_reduce(comm::make_host_all_reduce(ranks)) {
    layer->split({ranks.rank(), ranks.size(),
                  [this](torch::Tensor& values) { all_reduce->start(values)->wait(); }},
                 dtype);
  }
  std::unique_ptr<comm::AllReduce> all_reduce;
  SplitLinear layer{12, 10};
};

/// 10 outputs over 4 ranks are 2, 3, 2 and 3; rows are 0, 1, 2 and 3.
void expect_as_unsplit(torch::ScalarType dtype, double tolerance) {
  const auto ranks = mpi::Communicator::world();
  const std::int64_t rank = ranks.rank(), size = ranks.size();
  const auto first = [](std::int64_t of) { return of * (of - 1) / 2; };
  torch::manual_seed(5);
  Layer split(ranks, dtype);
  const auto rounded = [&](torch::Tensor values) { return values.to(dtype).to(torch::kDouble); };
  const auto weight = rounded(split.layer->weight.detach()).requires_grad_();
  const auto bias = rounded(split.layer->bias.detach()).requires_grad_();
  const std::int64_t rows = first(size) + 1;  // one rank alone has one row
  const auto all = rounded(torch::randn({rows, 12})).requires_grad_();
  const auto output_weight = rounded(torch::randn({rows, 10}));
  const auto expected = torch::linear(all, weight, bias);
  (expected * output_weight).sum().backward();

  // The last rank has the row that is left over.
  const std::int64_t mine = rank + (rank + 1 == size ? 1 : 0);
  const auto own = [&](const torch::Tensor& of) {
    return of.detach().narrow(0, first(rank), mine);
  };
  const auto input = own(all).to(dtype).clone().requires_grad_();
  const auto output = split.layer->forward(input);
  (output * own(output_weight).to(dtype)).sum().backward();

  const auto close = [&](const torch::Tensor& ours, const torch::Tensor& theirs) {
    return torch::allclose(ours.to(torch::kDouble), theirs, tolerance, tolerance);
  };
  EXPECT_TRUE(close(output, own(expected)));
  EXPECT_TRUE(close(input.grad(), own(all.grad())));
  const std::int64_t output_first = SplitLinearImpl::first_output(10, rank, size);
  const std::int64_t outputs = SplitLinearImpl::first_output(10, rank + 1, size) - output_first;
  const auto& parts = split.layer->parts();
  ASSERT_EQ(parts.size(), 2U);
  EXPECT_TRUE(close(parts[0].own.grad(), weight.grad().narrow(0, output_first, outputs)));
  EXPECT_TRUE(close(parts[1].own.grad(), bias.grad().narrow(0, output_first, outputs)));
}

TEST(SplitLinear, is_the_layer_unsplit) { expect_as_unsplit(torch::kFloat, 1e-5); }

// Sums of up to 12 products, each part of them rounded to 8 bits.
TEST(SplitLinear, is_the_layer_unsplit_in_bf16) { expect_as_unsplit(torch::kBFloat16, 0.03); }

TEST(SplitLinear, own_rows_are_the_wholes_memory_and_copies_follow) {
  const auto ranks = mpi::Communicator::world();
  Layer split(ranks, torch::kBFloat16);
  {
    const torch::NoGradGuard no_gradients;
    split.layer->weight.fill_(3);
  }
  const SplitParameter& part = split.layer->parts()[0];
  EXPECT_TRUE((part.rows == 3).all().item<bool>());
  EXPECT_FALSE((part.own == 3).any().item<bool>());
  split.layer->update_copies();
  EXPECT_TRUE((part.own == 3).all().item<bool>());
}

}  // namespace
}  // namespace quadrat
