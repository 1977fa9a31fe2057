#include "convolution.h"

#include <ATen/autocast_mode.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <functional>
#include <limits>
#include <string>

#include "quadrat/base/cpu.h"
#include "quadrat/model/int16_linear.h"
#include "quadrat/model/winograd.h"

namespace quadrat {
namespace {

struct Case {
  std::int64_t in, out, size, stride, padding;
  bool has_winograd;
  bool has_gradients = false;  // computed by it too, on any processor that has it
};

/// With it, convolutions of larger strides, or of channels that its vectors do not fit, are
/// torch's.
const bool kHasAvx512 = cpu_features().avx512;

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
  const auto [in, out, size, stride, padding, has_winograd, has_gradients] = GetParam();
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
    const Results from{map(out, after(45), after(57)), map(in, 45, 57),
                       weight.contiguous(with_bias ? torch::MemoryFormat::ChannelsLast
                                                   : torch::MemoryFormat::Contiguous),
                       with_bias ? torch::randn({out}) : torch::Tensor()};
    const Results wanted = results_of(torchs, from, torch::kDouble);
    at::set_num_threads(1);
    const Results got = results_of(ours, from, torch::kFloat);
    // Winograd's transforms lose up to a factor of 50 of float32's unit, 6e-8 of values that reach
    // 5 standard deviations; blocks of 5 outputs, which have fourth powers of the points, twice as
    // much. Sums over a map's pixels, in float32, lose no more.
    EXPECT_LT(difference(got.output, wanted.output), size == 3 && stride == 2 ? 4e-5 : 2e-5);
    EXPECT_LT(difference(got.input, wanted.input), 2e-5);
    EXPECT_LT(difference(got.weight, wanted.weight), 2e-5);
    if (with_bias) {
      EXPECT_LT(difference(got.bias, wanted.bias), 2e-5);
    }
    // It is not torch's own that was computed.
    const Results plain = results_of(torchs, from, torch::kFloat);
    EXPECT_EQ(torch::equal(got.output, plain.output), !(has_winograd && cpu_features().avx2));

    at::set_num_threads(2);
    const Results on_two = results_of(ours, from, torch::kFloat);
    if (!has_winograd) continue;
    EXPECT_TRUE(torch::equal(on_two.output, got.output));
    if (!has_gradients) continue;  // torch promises no such thing
    EXPECT_TRUE(torch::equal(on_two.input, got.input));
    EXPECT_TRUE(torch::equal(on_two.weight, got.weight));
  }
}

INSTANTIATE_TEST_SUITE_P(
    Cases, Convolution,
    testing::Values(Case{64, 64, 3, 1, 1, true, true}, Case{128, 64, 3, 1, 1, true, true},
                    Case{64, 192, 5, 1, 2, true, true}, Case{64, 128, 3, 2, 1, !kHasAvx512},
                    Case{48, 64, 3, 1, 1, true}, Case{40, 64, 3, 1, 1, !kHasAvx512},
                    Case{64, 40, 3, 1, 1, false}, Case{3, 64, 7, 2, 3, !kHasAvx512},
                    Case{3, 64, 11, 4, 2, !kHasAvx512}, Case{64, 128, 1, 2, 0, false}),
    [](const auto& of) {
      return std::to_string(of.param.in) + "_" + std::to_string(of.param.out) + "_" +
             std::to_string(of.param.size) + "_stride_" + std::to_string(of.param.stride);
    });

torch::Tensor ours_3x3(const torch::Tensor& input, const torch::Tensor& weight,
                       const torch::Tensor& bias) {
  return convolution_of(input, weight, bias, 1, 1);
}

torch::Tensor torchs_3x3(const torch::Tensor& input, const torch::Tensor& weight,
                         const torch::Tensor& bias) {
  return at::conv2d(input, weight, bias, {1, 1}, {1, 1});
}

/// Under autocast to bf16, as training has it.
torch::Tensor autocast(const std::function<torch::Tensor()>& work) {
  at::autocast::set_autocast_enabled(torch::kCPU, true);
  at::autocast::set_autocast_dtype(torch::kCPU, torch::kBFloat16);
  auto output = work();
  at::autocast::clear_cache();
  at::autocast::set_autocast_enabled(torch::kCPU, false);
  return output;
}

TEST(Convolution, of_bf16_is_computed_in_float32_unless_there_are_tiles) {
  torch::manual_seed(6);
  const auto map = [](std::int64_t channels) {
    return torch::randn({5, channels, 30, 29}).to(torch::kBFloat16);
  };
  const Results from{map(64), map(128), torch::randn({64, 128, 3, 3}) * 0.05, {}};
  auto input = from.input.clone().requires_grad_();
  auto weight = from.weight.clone().requires_grad_();
  const auto output = autocast([&] { return ours_3x3(input, weight, {}); });
  const auto plain = autocast([&] { return torchs_3x3(input, weight, {}); });
  EXPECT_EQ(output.scalar_type(), torch::kBFloat16);
  const CpuFeatures cpu = cpu_features();
  ASSERT_EQ(torch::equal(output, plain), cpu.amx || !cpu.avx2);
  if (cpu.amx || !cpu.avx2) return;
  output.backward(from.output);
  const Results wanted = results_of(torchs_3x3, from, torch::kDouble);
  // Rounded once, by up to 2^-8 of values that reach 6 standard deviations; weights' gradients are
  // not.
  EXPECT_LT(difference(output.detach(), wanted.output), 6.0 / 256);
  EXPECT_LT(difference(input.grad(), wanted.input), 6.0 / 256);
  EXPECT_EQ(weight.grad().scalar_type(), torch::kFloat);
  EXPECT_LT(difference(weight.grad(), wanted.weight), 2e-5);
}

/// Of channels that are no whole panel: gradients are torch's.
TEST(Convolution, of_bf16_has_gradients_of_the_types_of_what_they_are_of) {
  torch::manual_seed(8);
  auto input = torch::randn({2, 40, 9, 14}).to(torch::kBFloat16).requires_grad_();
  auto weight = (torch::randn({64, 40, 3, 3}) * 0.05).requires_grad_();
  const auto output = autocast([&] { return ours_3x3(input, weight, {}); });
  const auto gradient = torch::randn(output.sizes()).to(torch::kBFloat16);
  output.backward(gradient);
  const Results from{gradient, input.detach(), weight.detach(), {}};
  const Results wanted = results_of(torchs_3x3, from, torch::kDouble);
  EXPECT_EQ(input.grad().scalar_type(), torch::kBFloat16);
  EXPECT_EQ(weight.grad().scalar_type(), torch::kFloat);
  // Weights are rounded too.
  EXPECT_LT(difference(input.grad(), wanted.input), 12.0 / 256);
  EXPECT_LT(difference(weight.grad(), wanted.weight), 12.0 / 256);
}

/// More blocks than one pass takes: 248 and 247.
TEST(Convolution, sums_weight_gradients_over_many_blocks) {
  torch::manual_seed(7);
  const Results from{torch::randn({5, 64, 33, 41}),
                     torch::randn({5, 64, 33, 41}),
                     torch::randn({64, 64, 3, 3}) * 0.05,
                     {}};
  const Results wanted = results_of(torchs_3x3, from, torch::kDouble);
  const Results got = results_of(ours_3x3, from, torch::kFloat);
  EXPECT_LT(difference(got.weight, wanted.weight), 2e-5);
}

/// What a rank computes where others have the step's last tiles.
TEST(Convolution, of_no_map_has_gradients_of_zero) {
  auto input = torch::empty({0, 64, 8, 8}).requires_grad_();
  auto weight = torch::randn({64, 64, 3, 3}).requires_grad_();
  const auto output = ours_3x3(input, weight, {});
  EXPECT_EQ(output.sizes(), torch::IntArrayRef({0, 64, 8, 8}));
  output.sum().backward();
  EXPECT_TRUE(torch::equal(weight.grad(), torch::zeros_like(weight)));
}

TEST(Convolution, that_diverged_shows_in_all_gradients) {
  for (const auto type : {torch::kFloat, torch::kBFloat16}) {
    const auto map = torch::full({1, 64, 8, 8}, std::numeric_limits<float>::quiet_NaN()).to(type);
    auto input = map.clone().requires_grad_();
    auto weight = torch::randn({64, 64, 3, 3}).requires_grad_();
    const auto convolve = [&] { return ours_3x3(input, weight, {}); };
    const auto output = type == torch::kBFloat16 ? autocast(convolve) : convolve();
    output.backward(map);
    for (const torch::Tensor& found : {output, input.grad(), weight.grad()})
      EXPECT_TRUE(found.isnan().all().item<bool>());
  }
}

/// @param input [n, channels_in, height, width] @param weight [channels_out, channels_in, k, k]
torch::Tensor winograd(const WinogradShape& shape, const torch::Tensor& input,
                       const torch::Tensor& weight, const torch::Tensor& bias,
                       WinogradProducts products) {
  const auto channels_last = torch::MemoryFormat::ChannelsLast;
  const auto maps = input.contiguous(channels_last), taps = weight.contiguous(channels_last);
  const WinogradMaps size{input.size(0), input.size(2), input.size(3)};
  const WinogradMaps outs = shape.outputs_of(size);
  auto out = torch::empty({outs.count, shape.channels_out, outs.height, outs.width}, torch::kFloat)
                 .contiguous(channels_last);
  WinogradConvolution(shape, taps.const_data_ptr<float>(), bias.const_data_ptr<float>(), products)
      .run<float>(maps.const_data_ptr<float>(), size, nullptr, false,
                  out.mutable_data_ptr<float>());
  return out;
}

class Int16 : public testing::TestWithParam<Case> {
 protected:
  void SetUp() override {
    if (!cpu_features().avx2) GTEST_SKIP() << "this CPU has no AVX2";
    torch::manual_seed(9);
    at::set_num_threads(1);
  }
};

TEST_P(Int16, is_near_the_definition) {
  const auto [in, out, size, stride, padding, is_rounded, unused] = GetParam();
  const WinogradShape shape{in, out, size, stride, padding};
  if (!WinogradConvolution::is_supported(shape)) GTEST_SKIP() << "not by this CPU";
  // As behind a ReLU. No multiple of the blocks.
  const auto input = torch::randn({3, in, 23, 21}).relu();
  const auto weight = torch::randn({out, in, size, size}) * 0.05;
  const auto bias = torch::randn({out});
  const auto wanted = at::conv2d(input.to(torch::kDouble), weight.to(torch::kDouble),
                                 bias.to(torch::kDouble), {stride, stride}, {padding, padding});
  const auto got = winograd(shape, input, weight, bias, WinogradProducts::kInt16);
  // Points are rounded by up to half of an 8,191st of the largest, which is about 5 standard
  // deviations of all, weights by half of a 260,000th of the sum over 512 channels: 2e-4 and 5e-4
  // of a standard deviation. The blocks' transform makes 5 times as much of them, and the largest
  // of 500,000 errors is 5 times the usual one.
  EXPECT_LT(difference(got, wanted), 1.2e-2);
  EXPECT_EQ(difference(got, wanted) > 2e-5, is_rounded);
  // What a map becomes does not depend on others.
  const auto alone = winograd(shape, input.narrow(0, 1, 1), weight, bias, WinogradProducts::kInt16);
  EXPECT_TRUE(torch::equal(alone, got.narrow(0, 1, 1)));
}

INSTANTIATE_TEST_SUITE_P(Cases, Int16,
                         testing::Values(Case{64, 64, 3, 1, 1, true}, Case{512, 64, 3, 1, 1, true},
                                         Case{64, 192, 5, 1, 2, true}, Case{64, 128, 3, 2, 1, true},
                                         Case{48, 64, 3, 1, 1, true}, Case{3, 64, 11, 4, 2, true},
                                         Case{3, 64, 7, 3, 2, true}, Case{3, 64, 7, 2, 3, false},
                                         Case{5, 64, 7, 3, 2, true}),
                         [](const auto& of) {
                           return std::to_string(of.param.in) + "_" + std::to_string(of.param.out) +
                                  "_" + std::to_string(of.param.size) + "_stride_" +
                                  std::to_string(of.param.stride);
                         });

/// Every product of a sum as large as it can be, of the same sign, and all weights rounded
/// up: 64.75 to 65.
TEST_F(Int16, sums_of_the_largest_products_do_not_overflow) {
  constexpr std::int64_t kChannels = 4000;
  const WinogradShape shape{kChannels, 64, 3, 1, 1};
  const auto input = torch::ones({1, kChannels, 8, 8}), bias = torch::zeros({64});
  for (const float value : {1.0F, -1.0F, 1e-3F}) {
    const auto weight = torch::full({64, kChannels, 3, 3}, value);
    const auto wanted =
        at::conv2d(input.to(torch::kDouble), weight.to(torch::kDouble), {}, {1, 1}, {1, 1});
    const auto got = winograd(shape, input, weight, bias, WinogradProducts::kInt16);
    EXPECT_LT((got - wanted).abs().max().item<double>(),
              0.5 / 64 * 9 * kChannels * std::abs(value));
  }
}

TEST_F(Int16, of_fully_connected_layers_is_near_the_definition) {
  for (const std::int64_t inputs : {16, 512, 1040}) {  // one, one and three parts
    const auto input = torch::randn({13, inputs}).relu(),
               weight = torch::randn({192, inputs}) * 0.05;
    const auto bias = torch::randn({192});
    ASSERT_TRUE(Int16Linear::is_supported(inputs, 192));
    const Int16Linear layer(inputs, 192, weight.const_data_ptr<float>(),
                            bias.const_data_ptr<float>());
    const auto run = [&](const torch::Tensor& in, bool relu) {
      auto out = torch::empty({in.size(0), 192});
      layer.run(in.const_data_ptr<float>(), in.size(0), relu, out.mutable_data_ptr<float>());
      return out;
    };
    const auto wanted =
        at::linear(input.to(torch::kDouble), weight.to(torch::kDouble), bias.to(torch::kDouble));
    const auto got = run(input, false);
    // As above, without the blocks' transform.
    EXPECT_LT(difference(got, wanted), 1.2e-2 / 5);
    EXPECT_GT(difference(got, wanted), 2e-6);
    EXPECT_TRUE(torch::equal(run(input, true), got.relu()));
    EXPECT_TRUE(torch::equal(run(input.narrow(0, 4, 3), false), got.narrow(0, 4, 3)));
    at::set_num_threads(3);
    EXPECT_TRUE(torch::equal(run(input, false), got));
    at::set_num_threads(1);
  }
  EXPECT_FALSE(Int16Linear::is_supported(24, 192));
  EXPECT_FALSE(Int16Linear::is_supported(32, 40));
}

TEST_F(Int16, keeps_zeros_and_what_is_no_number) {
  const WinogradShape shape{64, 64, 3, 1, 1};
  const auto weight = torch::randn({64, 64, 3, 3}), bias = torch::randn({64});
  auto input = torch::zeros({1, 64, 16, 16});
  const auto of_nothing = winograd(shape, input, weight, bias, WinogradProducts::kInt16);
  EXPECT_TRUE(torch::equal(of_nothing, bias.view({1, 64, 1, 1}).expand({1, 64, 16, 16})));
  const auto no_weight = winograd(shape, torch::randn({1, 64, 16, 16}), torch::zeros_like(weight),
                                  bias, WinogradProducts::kInt16);
  EXPECT_TRUE(torch::equal(no_weight, of_nothing));
  for (const float value :
       {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    input[0][5][6][6] = value;
    const auto got = winograd(shape, input, weight, bias, WinogradProducts::kInt16);
    EXPECT_FALSE(got[0].select(1, 6).select(1, 6).isfinite().any().item<bool>());
    EXPECT_TRUE(got[0].select(1, 15).isfinite().all().item<bool>());
    auto wrong = weight.clone();
    wrong[3][0][1][1] = value;
    const auto of_wrong =
        winograd(shape, torch::ones({1, 64, 8, 8}), wrong, bias, WinogradProducts::kInt16);
    EXPECT_FALSE(of_wrong[0][3].isfinite().any().item<bool>());
    EXPECT_TRUE(of_wrong[0][2].isfinite().all().item<bool>());
  }
}

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
