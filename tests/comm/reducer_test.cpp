#include <gtest/gtest.h>
#include <torch/torch.h>

#include <algorithm>
#include <chrono>
#include <thread>

#include "quadrat/comm/gradient_reducer.h"
#include "quadrat/mpi/communicator.h"

namespace quadrat::comm {
namespace {

/// What rank r holds: any rank can make it, so the serial sum needs no communication.
torch::Tensor part(int rank, at::IntArrayRef shape, torch::ScalarType type = torch::kFloat) {
  torch::manual_seed(static_cast<std::uint64_t>(rank) + 1);
  return torch::randn(shape, torch::kDouble).to(type);
}

class AllReduceBy
    : public ::testing::TestWithParam<std::unique_ptr<AllReduce> (*)(const mpi::Communicator&)> {};

INSTANTIATE_TEST_SUITE_P(Backends, AllReduceBy,
                         ::testing::Values(&make_mpi_all_reduce, &make_shared_memory_all_reduce),
                         [](const auto& backend) {
                           return backend.index == 0 ? "mpi" : "shared_memory";
                         });

TEST_P(AllReduceBy, equals_the_serial_sum) {
  const auto ranks = mpi::Communicator::world();
  const auto reduce = GetParam()(ranks);
  for (const auto type : {torch::kFloat, torch::kDouble, torch::kBFloat16}) {
    auto serial = torch::zeros({1000}, torch::kDouble);
    auto magnitude = torch::zeros({1000}, torch::kDouble);
    for (int r = 0; r < ranks.size(); ++r) {
      const auto values = part(r, {1000}, type).to(torch::kDouble);
      serial += values;
      magnitude += values.abs();
    }
    auto mine = part(ranks.rank(), {1000}, type);
    reduce->start(mine)->wait();
    // Each of the n-1 additions rounds a partial sum no larger than the sum of magnitudes, by half
    // a unit at most.
    const double unit = type == torch::kDouble ? 0x1p-53 : type == torch::kFloat ? 0x1p-24 : 0x1p-8;
    const auto bound = magnitude * (unit * 1.01 * std::max(0, ranks.size() - 1));
    EXPECT_TRUE(((mine.to(torch::kDouble) - serial).abs() <= bound).all().item<bool>()) << type;
  }
}

TEST_P(AllReduceBy, sums_of_many_pieces_and_of_none) {
  const auto ranks = mpi::Communicator::world();
  const auto reduce = GetParam()(ranks);
  const std::int64_t n = ranks.size();
  for (const std::int64_t size : {0L, 1L, 3L, 65535L, 65536L, 65537L, 1'000'003L}) {
    auto mine = torch::arange(size, torch::kFloat) + static_cast<float>(ranks.rank());
    auto wide = torch::arange(size, torch::kDouble) * static_cast<double>(ranks.rank() + 1);
    const auto first = reduce->start(mine);
    const auto second = reduce->start(wide);
    second->wait();
    first->wait();
    // Whole numbers below 2^24: exact in any order.
    const auto index = torch::arange(size, torch::kDouble);
    EXPECT_TRUE(torch::equal(mine.to(torch::kDouble), index * n + n * (n - 1) / 2)) << size;
    EXPECT_TRUE(torch::equal(wide, index * (n * (n + 1) / 2))) << size;
  }
}

TEST_P(AllReduceBy, ranks_of_uneven_speed_wait_for_each_other) {
  const auto ranks = mpi::Communicator::world();
  const auto reduce = GetParam()(ranks);
  for (int round = 0; round < 30; ++round) {
    auto values = torch::full({300'000}, static_cast<float>(round + ranks.rank()));
    if (round % ranks.size() == ranks.rank())
      std::this_thread::sleep_for(std::chrono::milliseconds(2));
    const auto pending = reduce->start(values);
    if (round % 3 == 0) pending->poll();
    pending->wait();
    const auto expected =
        static_cast<float>(ranks.size() * round + ranks.size() * (ranks.size() - 1) / 2);
    EXPECT_TRUE((values == expected).all().item<bool>()) << round;
  }
}

TEST_P(AllReduceBy, several_at_once_do_not_mix) {
  const auto ranks = mpi::Communicator::world();
  const auto reduce = GetParam()(ranks);
  std::vector<torch::Tensor> tensors;
  std::vector<std::unique_ptr<Pending>> pending;
  for (int i = 0; i < 20; ++i) {
    tensors.push_back(torch::full({1 + 1000 * i}, static_cast<float>(i + ranks.rank())));
    pending.push_back(reduce->start(tensors.back()));
  }
  const int n = ranks.size();
  for (int i = 19; i >= 0; --i) {
    pending[static_cast<std::size_t>(i)]->wait();
    const auto expected = static_cast<float>(n * i + n * (n - 1) / 2);
    EXPECT_TRUE((tensors[static_cast<std::size_t>(i)] == expected).all().item<bool>());
  }
}

struct Net : torch::nn::Module {
  Net() {
    torch::manual_seed(7);
    conv = register_module("conv", torch::nn::Conv2d(torch::nn::Conv2dOptions(3, 8, 3)));
    conv->weight.set_data(conv->weight.contiguous(torch::MemoryFormat::ChannelsLast));
    wide = register_module("wide", torch::nn::Linear(8 * 6 * 6, 64));
    last = register_module("last", torch::nn::Linear(64, 5));
    unused = register_module("unused", torch::nn::Linear(4, 4));
  }
  torch::Tensor forward(const torch::Tensor& x) {
    return last(torch::relu(wide(torch::relu(conv(x)).flatten(1))));
  }
  torch::nn::Conv2d conv{nullptr};
  torch::nn::Linear wide{nullptr}, last{nullptr}, unused{nullptr};
};

/// Gradients of rank r's loss by plain autograd.
std::vector<torch::Tensor> gradients_of(int rank) {
  Net net;
  net.forward(part(rank, {4, 3, 8, 8})).square().mean().backward();
  std::vector<torch::Tensor> gradients;
  for (const auto& p : net.parameters())
    gradients.push_back(p.grad().defined() ? p.grad().clone() : torch::zeros_like(p));
  return gradients;
}

void expect_sums(const ReducerOptions& options, double unit) {
  const auto ranks = mpi::Communicator::world();
  const auto reduce = make_host_all_reduce(ranks);
  std::vector<torch::Tensor> serial, magnitude;
  for (int r = 0; r < ranks.size(); ++r) {
    const auto gradients = gradients_of(r);
    for (std::size_t i = 0; i < gradients.size(); ++i) {
      if (r == 0) {
        serial.push_back(torch::zeros_like(gradients[i], torch::kDouble));
        magnitude.push_back(torch::zeros_like(gradients[i], torch::kDouble));
      }
      serial[i] += gradients[i];
      magnitude[i] += gradients[i].abs();
    }
  }
  Net net;
  GradientReducer reducer(net.parameters(), *reduce, options);
  for (int step = 0; step < 3; ++step) {  // buffers and hooks are used again
    reducer.prepare();
    net.forward(part(ranks.rank(), {4, 3, 8, 8})).square().mean().backward();
    reducer.finish();
    for (std::size_t i = 0; i < serial.size(); ++i) {
      const auto gradient = net.parameters()[i].grad();
      if (!gradient.defined()) {  // one rank alone: nothing came, nothing is sent
        EXPECT_EQ(ranks.size(), 1);
        continue;
      }
      const auto bound = magnitude[i] * (unit * 1.01 * ranks.size()) + 1e-12;
      EXPECT_TRUE(((gradient - serial[i]).abs() <= bound).all().item<bool>()) << "parameter " << i;
    }
  }
}

TEST(GradientReducer, sums_in_one_bucket) { expect_sums({}, 0x1p-24); }

TEST(GradientReducer, sums_large_gradients_where_they_are) {
  expect_sums({.bucket_bytes = 64}, 0x1p-24);
}

TEST(GradientReducer, sums_in_bf16_within_its_rounding) {
  ReducerOptions options;
  options.bf16_on_the_wire = true;
  expect_sums(options, 0x1p-8);
}

TEST(GradientReducer, ranks_without_a_gradient_count_as_zero) {
  const auto ranks = mpi::Communicator::world();
  if (ranks.size() == 1) return;
  const auto reduce = make_host_all_reduce(ranks);
  Net net;
  GradientReducer reducer(net.parameters(), *reduce);
  reducer.prepare();
  if (ranks.is_root()) net.forward(part(0, {4, 3, 8, 8})).square().mean().backward();
  reducer.finish();
  const auto expected = gradients_of(0);
  for (std::size_t i = 0; i < expected.size(); ++i) {
    EXPECT_TRUE(torch::allclose(net.parameters()[i].grad(), expected[i], 1e-6, 1e-8));
  }
}

TEST(GradientReducer, buckets_match_up_where_gradients_come_in_another_order) {
  const auto ranks = mpi::Communicator::world();
  if (ranks.size() == 1) return;
  const auto reduce = make_host_all_reduce(ranks);
  Net net;
  auto forwards = net.parameters();
  forwards.resize(6);
  // The first buckets wait for the gradients that come last, and only on rank 0 does any come.
  std::reverse(forwards.begin(), forwards.end());
  GradientReducer reducer(forwards, *reduce, {.bucket_bytes = 64});
  reducer.prepare();
  if (ranks.is_root()) net.forward(part(0, {4, 3, 8, 8})).square().mean().backward();
  reducer.finish();
  const auto expected = gradients_of(0);
  for (std::size_t i = 0; i < 6; ++i) {
    EXPECT_TRUE(torch::allclose(net.parameters()[i].grad(), expected[i], 1e-6, 1e-8))
        << "parameter " << i;
  }
}

TEST(GradientReducer, keeps_types_apart) {
  const auto ranks = mpi::Communicator::world();
  const auto reduce = make_host_all_reduce(ranks);
  const std::vector<torch::Tensor> parameters{
      torch::zeros({3}, torch::dtype(torch::kDouble).requires_grad(true)),
      torch::zeros({4}, torch::requires_grad())};
  GradientReducer reducer(parameters, *reduce);
  reducer.prepare();
  const auto loss = (parameters[0] * torch::arange(3)).sum() + (parameters[1] * 10).sum();
  (loss * (ranks.rank() + 1)).backward();
  reducer.finish();
  const double times = ranks.size() * (ranks.size() + 1) / 2.0;
  EXPECT_TRUE(torch::equal(parameters[0].grad(), torch::arange(3, torch::kDouble) * times));
  EXPECT_TRUE(torch::equal(parameters[1].grad(), torch::full({4}, 10 * times, torch::kFloat)));
}

TEST(GradientReducer, accumulates_over_backward_passes) {
  const auto ranks = mpi::Communicator::world();
  const auto reduce = make_host_all_reduce(ranks);
  Net net;
  auto used = net.parameters();
  used.resize(6);  // without those that get no gradient
  GradientReducer reducer(used, *reduce);
  net.forward(part(ranks.rank(), {4, 3, 8, 8})).square().mean().backward();
  reducer.prepare(/*keep_gradients=*/true);
  net.forward(part(ranks.rank(), {4, 3, 8, 8})).square().mean().backward();
  reducer.finish();
  std::vector<torch::Tensor> serial(6);
  for (int r = 0; r < ranks.size(); ++r) {
    const auto gradients = gradients_of(r);
    for (std::size_t i = 0; i < 6; ++i)
      serial[i] = r == 0 ? 2 * gradients[i] : serial[i] + 2 * gradients[i];
  }
  for (std::size_t i = 0; i < 6; ++i)
    EXPECT_TRUE(torch::allclose(used[i].grad(), serial[i], 1e-5, 1e-7));
}

}  // namespace
}  // namespace quadrat::comm
