#include "convolution.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <functional>
#include <string>

#include "quadrat/base/cpu.h"

namespace quadrat {
namespace {

struct Case {
  std::int64_t in, out, size, stride, padding;
  bool has_winograd;
};

class Convolution : public testing::TestWithParam<Case> {};

struct Results {
  torch::Tensor output, input, weight, bias;
};

Results results_of(const std::function<torch::Tensor(const torch::Tensor&, const torch::Tensor&,
                                                     const torch::Tensor&)>& convolve,
                   const Results& from, torch::ScalarType type) {
  const auto leaf = [&](const torch::Tensor& tensor) {
    return tensor.defined() ? tensor.to(type).clone().requires_grad_() : tensor;
  };
  const Results leaves{{}, leaf(from.input), leaf(from.weight), leaf(from.bias)};
  const auto output = convolve(leaves.input, leaves.weight, leaves.bias);
  (output * from.output.to(type)).sum().backward();
  return {output.detach(), leaves.input.grad(), leaves.weight.grad(),
          from.bias.defined() ? leaves.bias.grad() : torch::Tensor()};
}

/// Largest difference, in standard deviations.
double difference(const torch::Tensor& a, const torch::Tensor& wanted) {
  return ((a.to(torch::kDouble) - wanted).abs().max() / wanted.std()).item<double>();
}

TEST_P(Convolution, equals_torchs_with_its_gradients) {
  const auto [in, out, size, stride, padding, has_winograd] = GetParam();
  torch::manual_seed(5);
  const auto map = [](std::int64_t channels, std::int64_t height, std::int64_t width) {
    return torch::randn({3, channels, height, width}, torch::kDouble)
        .to(torch::kFloat)
        .contiguous(torch::MemoryFormat::ChannelsLast);
  };
  // No multiple of the blocks.
  const auto after = [&](std::int64_t side) { return (side + 2 * padding - size) / stride + 1; };
  const auto weight = torch::randn({out, in, size, size}) * 0.05;
  const auto torchs = [&](const torch::Tensor& x, const torch::Tensor& w, const torch::Tensor& b) {
    return at::conv2d(x, w, b, {stride, stride}, {padding, padding});
  };
  const auto ours = [&](const torch::Tensor& x, const torch::Tensor& w, const torch::Tensor& b) {
    return convolution_of(x, w, b, stride, padding);
  };
  for (const bool with_bias : {false, true}) {
    const Results from{map(out, after(13), after(9)), map(in, 13, 9),
                       weight.contiguous(with_bias ? torch::MemoryFormat::ChannelsLast
                                                   : torch::MemoryFormat::Contiguous),
                       with_bias ? torch::randn({out}) : torch::Tensor()};
    const Results wanted = results_of(torchs, from, torch::kDouble);
    at::set_num_threads(1);
    const Results got = results_of(ours, from, torch::kFloat);
    // Winograd's transforms lose up to a factor of 50 of float32's unit, 6e-8 of values that reach
    // 5 standard deviations; sums over a map's pixels, in float32, as much.
    EXPECT_LT(difference(got.output, wanted.output), 2e-5);
    EXPECT_LT(difference(got.input, wanted.input), 2e-5);
    EXPECT_LT(difference(got.weight, wanted.weight), 2e-5);
    if (with_bias) {
      EXPECT_LT(difference(got.bias, wanted.bias), 2e-5);
    }
    // It is not torch's own that was computed.
    const Results plain = results_of(torchs, from, torch::kFloat);
    EXPECT_EQ(torch::equal(got.output, plain.output), !(has_winograd && cpu_features().avx512));

    at::set_num_threads(2);
    const Results on_two = results_of(ours, from, torch::kFloat);
    if (!has_winograd) continue;
    EXPECT_TRUE(torch::equal(on_two.output, got.output));
    EXPECT_TRUE(torch::equal(on_two.input, got.input));
  }
}

INSTANTIATE_TEST_SUITE_P(Cases, Convolution,
                         testing::Values(Case{64, 64, 3, 1, 1, true}, Case{128, 64, 3, 1, 1, true},
                                         Case{64, 192, 5, 1, 2, true},
                                         Case{64, 128, 3, 2, 1, false},
                                         Case{48, 64, 3, 1, 1, false}, Case{3, 64, 7, 2, 3, false}),
                         [](const auto& of) {
                           return std::to_string(of.param.in) + "_" + std::to_string(of.param.out) +
                                  "_" + std::to_string(of.param.size) + "_stride_" +
                                  std::to_string(of.param.stride);
                         });

TEST(Convolution, gives_no_gradient_that_nobody_asked_for) {
  const auto input = torch::randn({1, 64, 8, 8});
  auto weight = torch::randn({64, 64, 3, 3}).requires_grad_();
  convolution_of(input, weight, {}, 1, 1).sum().backward();
  EXPECT_TRUE(weight.grad().defined());
  EXPECT_FALSE(input.grad().defined());
  const torch::NoGradGuard no_gradients;
  EXPECT_FALSE(convolution_of(input, weight, {}, 1, 1).requires_grad());
}

}  // namespace
}  // namespace quadrat
