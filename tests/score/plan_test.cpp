#include "quadrat/score/plan.h"

#include <gtest/gtest.h>

#include "quadrat/base/cpu.h"
#include "quadrat/base/error.h"
#include "quadrat/score/device_network.h"
#include "reference.h"

namespace quadrat::score {
namespace {

using testing::random_tiles;
using testing::random_weights;
using testing::reference_forward;

/// Largest difference over the reference's standard deviation.
double relative_error(const torch::Tensor& got, const torch::Tensor& wanted) {
  const auto scale = wanted.std().item<double>();
  return ((got.to(torch::kFloat64) - wanted).abs().max() / scale).item<double>();
}

class PlanOf : public ::testing::TestWithParam<Architecture> {
 protected:
  void SetUp() override {
    at::set_num_threads(1);
    weights_ = random_weights(GetParam(), 6, 17);
    card_ = read_model_card(weights_, "model");
    tiles_ = random_tiles(11, card_.tile_px, 5);
  }

  Plan compile(Precision precision, std::int64_t batch) {
    return Plan(fuse_network(weights_, card_, "model"), precision, batch);
  }

  std::span<const std::uint8_t> tiles(std::int64_t first, std::int64_t count) const {
    const auto bytes = static_cast<std::size_t>(3 * card_.tile_px * card_.tile_px);
    return std::span(tiles_).subspan(static_cast<std::size_t>(first) * bytes,
                                     static_cast<std::size_t>(count) * bytes);
  }

  WeightsFile weights_;
  ModelCard card_;
  std::vector<std::uint8_t> tiles_;
};

TEST_P(PlanOf, fp32_equals_the_plain_network) {
  const auto wanted = reference_forward(weights_, card_, tiles_);
  auto plan = compile(Precision::kFp32, 16);
  const auto got = plan.infer(tiles_);
  ASSERT_EQ(got.logits.sizes(), wanted.logits.sizes());
  ASSERT_EQ(got.features.sizes(), wanted.features.sizes());
  EXPECT_LT(relative_error(got.features, wanted.features), 2e-5);
  EXPECT_LT(relative_error(got.logits, wanted.logits), 2e-5);
}

TEST_P(PlanOf, threads_compute_what_one_does) {
  for (const Precision precision : {Precision::kFp32, Precision::kBf16, Precision::kInt16}) {
    if (!is_supported(precision)) continue;
    auto plan = compile(precision, 16);
    const auto alone = plan.infer(tiles_).features.clone();
    at::set_num_threads(3);
    const auto together = plan.infer(tiles_).features.clone();
    at::set_num_threads(1);
    // A map is one thread's; libraries may add up in another order, after which other values are
    // rounded up.
    EXPECT_LT(relative_error(together, alone.to(torch::kFloat64)),
              precision == Precision::kFp32 ? 1e-5 : 2e-2);
  }
}

TEST_P(PlanOf, bf16_is_near_the_plain_network) {
  if (!is_supported(Precision::kBf16)) GTEST_SKIP() << "this CPU has no AVX-512";
  const auto wanted = reference_forward(weights_, card_, tiles_);
  auto plan = compile(Precision::kBf16, 16);
  const auto got = plan.infer(tiles_);
  EXPECT_LT(relative_error(got.logits, wanted.logits), 0.1);
  EXPECT_GT(relative_error(got.logits, wanted.logits), 1e-5) << "it was computed in float32";
}

TEST_P(PlanOf, int16_is_nearer_the_plain_network_than_bf16) {
  if (!is_supported(Precision::kInt16)) GTEST_SKIP() << "this CPU has no AVX2";
  const auto wanted = reference_forward(weights_, card_, tiles_);
  auto plan = compile(Precision::kInt16, 16);
  const auto got = plan.infer(tiles_);
  const DeviceNetwork bf16(fuse_network(weights_, card_, "model"), torch::kCPU, torch::kBFloat16);
  const double features = relative_error(got.features, wanted.features);
  EXPECT_LT(features, 0.02);
  EXPECT_LT(features, relative_error(bf16.infer(tiles_).features, wanted.features));
  EXPECT_GT(features, 2e-5) << "it was computed in float32";
}

TEST_P(PlanOf, int8_is_near_the_plain_network) {
  if (!is_supported(Precision::kInt8)) GTEST_SKIP() << "this CPU has no AVX-512 VNNI";
  const auto wanted = reference_forward(weights_, card_, tiles_);
  Calibration calibration;
  compile(Precision::kFp32, Plan::kTilesAtOnce)
      .observe(random_tiles(16, card_.tile_px, 6), calibration);
  ASSERT_EQ(calibration.groups, 2);
  Plan plan(fuse_network(weights_, card_, "model"), Precision::kInt8, 16, &calibration);
  const auto got = plan.infer(tiles_);
  EXPECT_LT(relative_error(got.features, wanted.features), 0.8);
  const auto agreement =
      at::cosine_similarity(got.features.to(torch::kFloat64), wanted.features, 1);
  EXPECT_GT(agreement.min().item<double>(), 0.99);
  EXPECT_LT(agreement.min().item<double>(), 0.9999999) << "it was not computed in int8";
}

TEST_P(PlanOf, a_tiles_result_does_not_depend_on_its_neighbours) {
  Calibration calibration;
  compile(Precision::kFp32, Plan::kTilesAtOnce)
      .observe(random_tiles(16, card_.tile_px, 6), calibration);
  for (const Precision precision :
       {Precision::kFp32, Precision::kBf16, Precision::kInt8, Precision::kInt16}) {
    if (!is_supported(precision)) continue;
    Plan plan(fuse_network(weights_, card_, "model"), precision, 16, &calibration);
    const auto whole = plan.infer(tiles_).logits.clone();
    for (const std::int64_t first : {0, 3, 10}) {
      const auto alone = plan.infer(tiles(first, 1)).logits.clone();
      EXPECT_TRUE(torch::equal(alone[0], whole[first]))
          << to_string(precision) << " tile " << first;
    }
    const auto again = plan.infer(tiles_).logits.clone();
    EXPECT_TRUE(torch::equal(again, whole)) << to_string(precision);
  }
}

TEST_P(PlanOf, amx_costs_little_nearness) {
  if (!cpu_features().amx) GTEST_SKIP() << "this CPU has no AMX";
  const auto wanted = reference_forward(weights_, card_, tiles_);
  Calibration calibration;
  compile(Precision::kFp32, Plan::kTilesAtOnce)
      .observe(random_tiles(16, card_.tile_px, 6), calibration);
  for (const Precision precision : {Precision::kBf16, Precision::kInt8}) {
    Plan with(fuse_network(weights_, card_, "model"), precision, 16, &calibration);
    Plan without(fuse_network(weights_, card_, "model"), precision, 16, &calibration, torch::kCPU,
                 false);
    const auto a = with.infer(tiles_).features.to(torch::kFloat64);
    const auto b = without.infer(tiles_).features.to(torch::kFloat64);
    EXPECT_FALSE(torch::equal(a, b)) << to_string(precision) << ": AMX was used in both";
    const double error = relative_error(a, wanted.features);
    // Without AMX, bf16's convolutions by Winograd's algorithm multiply float32 weights; AMX rounds
    // the weights to bf16 too.
    EXPECT_LT(error, 1.5 * relative_error(b, wanted.features)) << to_string(precision);
  }
}

TEST_P(PlanOf, a_device_computes_the_plain_network) {
  const auto wanted = reference_forward(weights_, card_, tiles_);
  const DeviceNetwork fp32(fuse_network(weights_, card_, "model"), torch::kCPU, torch::kFloat);
  const auto got = fp32.infer(tiles_);
  EXPECT_LT(relative_error(got.features, wanted.features), 2e-5);
  EXPECT_LT(relative_error(got.logits, wanted.logits), 2e-5);
  const DeviceNetwork bf16(fuse_network(weights_, card_, "model"), torch::kCPU, torch::kBFloat16);
  const auto near = bf16.infer(tiles_);
  EXPECT_EQ(near.logits.scalar_type(), torch::kFloat);
  EXPECT_LT(relative_error(near.logits, wanted.logits), 0.1);
  EXPECT_GT(relative_error(near.logits, wanted.logits), 1e-5) << "it was computed in float32";
}

TEST_P(PlanOf, a_device_takes_tiles_that_are_normalised) {
  const DeviceNetwork network(fuse_network(weights_, card_, "model"), torch::kCPU, torch::kFloat);
  auto plan = compile(Precision::kFp32, 16);
  torch::manual_seed(2);
  const auto tiles = torch::randn({5, 3, card_.tile_px, card_.tile_px})
                         .contiguous(torch::MemoryFormat::ChannelsLast);
  const auto wanted = plan.infer(tiles).features.to(torch::kFloat64);
  EXPECT_LT(relative_error(network.infer(tiles).features, wanted), 2e-5);
}

INSTANTIATE_TEST_SUITE_P(Architectures, PlanOf,
                         ::testing::Values(Architecture::kAlexNet, Architecture::kResNet18),
                         [](const auto& param) {
                           return param.param == Architecture::kAlexNet ? "AlexNet" : "ResNet18";
                         });

std::string message_of(const std::function<void()>& work) {
  try {
    work();
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

TEST(Network, names_what_is_missing) {
  auto weights = random_weights(Architecture::kResNet18, 3, 1);
  const ModelCard card = read_model_card(weights, "m.safetensors");
  std::erase_if(weights.tensors,
                [](const StoredTensor& t) { return t.name == "layer2.0.bn1.running_var"; });
  const std::string message = message_of([&] { fuse_network(weights, card, "m.safetensors"); });
  EXPECT_NE(message.find("m.safetensors"), std::string::npos) << message;
  EXPECT_NE(message.find("layer2.0.bn1.running_var"), std::string::npos) << message;
}

TEST(Network, refuses_another_shape) {
  auto weights = random_weights(Architecture::kResNet18, 3, 1);
  weights.metadata["classes"] = R"(["A", "B"])";
  const ModelCard card = read_model_card(weights, "m");
  const std::string message = message_of([&] { fuse_network(weights, card, "m"); });
  EXPECT_NE(message.find("[3, 512], but [2, 512]"), std::string::npos) << message;
}

TEST(Network, refuses_values_that_are_not_finite) {
  auto weights = random_weights(Architecture::kResNet18, 3, 1);
  const ModelCard card = read_model_card(weights, "m");
  for (StoredTensor& tensor : weights.tensors) {
    if (tensor.name != "fc.bias") continue;
    reinterpret_cast<float*>(tensor.data.data())[1] = std::numeric_limits<float>::quiet_NaN();
  }
  const std::string message = message_of([&] { fuse_network(weights, card, "m"); });
  EXPECT_NE(message.find("'fc.bias'"), std::string::npos) << message;
}

TEST(Network, refuses_metadata_that_makes_no_sense) {
  const auto good = random_weights(Architecture::kResNet18, 3, 1);
  const std::pair<const char*, const char*> wrong[] = {
      {"architecture", "vgg"},   {"classes", "[]"},        {"classes", "[\"A\", \"A\"]"},
      {"classes", "{"},          {"classes", "[\"a/b\"]"}, {"mean", "[1, 2]"},
      {"std", "[1, 0, 1]"},      {"tile_px", "big"},       {"tile_px", "0"},
      {"mean", "[1, 2, \"3\"]"}, {"classes", "[1, 2, 3]"}};
  for (const auto& [key, value] : wrong) {
    WeightsFile weights = good;
    weights.metadata[key] = value;
    EXPECT_THROW(fuse_network(weights, read_model_card(weights, "m"), "m"), InputError)
        << key << " = " << value;
    weights.metadata.erase(key);
    EXPECT_THROW(read_model_card(weights, "m"), InputError) << "no " << key;
  }
}

TEST(Probabilities, are_a_softmax_that_does_not_overflow) {
  const auto p = probabilities(torch::tensor({{0.0F, 0.0F}, {1000.0F, 0.0F}}));
  EXPECT_FLOAT_EQ(p[0], 0.5F);
  EXPECT_FLOAT_EQ(p[1], 0.5F);
  EXPECT_FLOAT_EQ(p[2], 1.0F);
  EXPECT_FLOAT_EQ(p[3], 0.0F);
}

}  // namespace
}  // namespace quadrat::score
