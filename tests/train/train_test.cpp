#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/torch.h>
#include <unistd.h>

#include <cmath>
#include <functional>

#include "quadrat/base/error.h"
#include "quadrat/train/checkpoint.h"
#include "quadrat/train/features.h"
#include "quadrat/train/optimizer.h"
#include "quadrat/train/options.h"
#include "quadrat/train/schedule.h"
#include "quadrat/weights/weights_file.h"

namespace quadrat {
namespace {

TEST(Schedule, warms_up_linearly_and_ends_near_zero) {
  const LearningRateSchedule cosine("cosine", 0.1, 1, 10, 4);
  EXPECT_DOUBLE_EQ(cosine.at(0), 0.025);
  EXPECT_DOUBLE_EQ(cosine.at(3), 0.1);
  EXPECT_DOUBLE_EQ(cosine.at(4), 0.1);
  EXPECT_NEAR(cosine.at(22), 0.05, 1e-12);
  EXPECT_LT(cosine.at(39), 0.001);
}

TEST(Schedule, steps_fall_to_a_tenth_after_each_third) {
  const LearningRateSchedule step("step", 1, 0, 3, 10);
  EXPECT_DOUBLE_EQ(step.at(9), 1);
  EXPECT_DOUBLE_EQ(step.at(10), 0.1);
  EXPECT_NEAR(step.at(29), 0.01, 1e-15);
  EXPECT_EQ(LearningRateSchedule("constant", 1, 0, 3, 10).at(29), 1);
  EXPECT_THROW(LearningRateSchedule("poly", 1, 0, 3, 10), UsageError);
}

template <typename Reference, typename ReferenceOptions>
void expect_same_steps(const Optimizer::Options& options,
                       const ReferenceOptions& reference_options) {
  torch::manual_seed(1);
  std::vector<torch::Tensor> ours, theirs;
  for (const auto& shape : {std::vector<std::int64_t>{8, 3, 5, 5}, {7}}) {
    ours.push_back(torch::randn(shape));
    if (shape.size() == 4) ours.back() = ours.back().contiguous(torch::MemoryFormat::ChannelsLast);
    theirs.push_back(ours.back().clone(torch::MemoryFormat::Contiguous).requires_grad_());
  }
  Optimizer optimizer(ours, options);
  Reference reference(theirs, reference_options);
  for (int step = 0; step < 4; ++step) {
    for (std::size_t i = 0; i < ours.size(); ++i) {
      const auto gradient = torch::randn(ours[i].sizes());  // laid out otherwise than the parameter
      ours[i].mutable_grad() = gradient;
      theirs[i].mutable_grad() = gradient.clone();
    }
    optimizer.step(0.05);
    reference.step();
  }
  for (std::size_t i = 0; i < ours.size(); ++i)
    EXPECT_TRUE(torch::allclose(ours[i], theirs[i], 1e-5, 1e-6));
}

TEST(Optimizer, sgd_steps_as_torch_does) {
  expect_same_steps<torch::optim::SGD>(
      {"sgd", 0.9, 0.01}, torch::optim::SGDOptions(0.05).momentum(0.9).weight_decay(0.01));
}

TEST(Optimizer, adamw_steps_as_torch_does) {
  expect_same_steps<torch::optim::AdamW>({"adamw", 0.9, 0.01},
                                         torch::optim::AdamWOptions(0.05).weight_decay(0.01));
}

TEST(Optimizer, clips_to_the_joint_norm) {
  auto a = torch::zeros({2}), b = torch::zeros({1});
  a.mutable_grad() = torch::tensor({3.0F, 0.0F});
  b.mutable_grad() = torch::tensor({4.0F});
  Optimizer optimizer({a, b}, {});
  EXPECT_NEAR(optimizer.clip(1).item<double>(), 5, 1e-6);
  EXPECT_NEAR(a.grad()[0].item<double>(), 0.6, 1e-6);
  EXPECT_NEAR(b.grad()[0].item<double>(), 0.8, 1e-6);
}

TEST(Optimizer, steps_what_a_bf16_parameter_is_a_copy_of) {
  for (const char* kind : {"sgd", "adamw"}) {
    torch::manual_seed(2);
    // More than are stepped at once; this rank's rows are in the middle of a whole.
    const auto whole = torch::randn({500, 600});
    const SplitParameter part{whole.narrow(0, 100, 300).to(torch::kBFloat16),
                              whole.narrow(0, 100, 300), whole};
    const auto before = whole.clone();
    const auto plain = part.rows.clone();
    const Optimizer::Options options{kind, 0.9, 0.01};
    Optimizer optimizer({part.own}, options, {part});
    Optimizer reference({plain}, options);
    for (int step = 0; step < 3; ++step) {
      part.own.mutable_grad() = torch::randn({300, 600}).to(torch::kBFloat16);
      plain.mutable_grad() = part.own.grad().to(torch::kFloat);
      optimizer.step(0.05);
      reference.step(0.05);
    }
    EXPECT_TRUE(torch::equal(part.rows, plain)) << kind;
    EXPECT_TRUE(torch::equal(part.own, plain.to(torch::kBFloat16))) << kind;
    EXPECT_TRUE(torch::equal(whole.narrow(0, 0, 100), before.narrow(0, 0, 100))) << kind;
    EXPECT_EQ(optimizer.state()[0].sizes(), whole.sizes()) << kind;
    EXPECT_TRUE(torch::equal(optimizer.state()[0].narrow(0, 100, 300), reference.state()[0]))
        << kind;
  }
}

TEST(Optimizer, clips_by_what_all_ranks_have_of_split_parameters) {
  const auto whole = torch::zeros({2});
  const SplitParameter part{whole.narrow(0, 0, 1).clone(), whole.narrow(0, 0, 1), whole};
  const auto other = torch::zeros({1});
  Optimizer optimizer({part.own, other}, {}, {part});
  part.own.mutable_grad() = torch::tensor({3.0F});
  other.mutable_grad() = torch::tensor({12.0F});
  // Another rank has 4 in its row: 3, 4 and 12 are 13 long.
  const auto norm = optimizer.clip(1.3, [](torch::Tensor& squares) { squares[0] += 16; });
  EXPECT_NEAR(norm.item<double>(), 13, 1e-5);
  EXPECT_NEAR(part.own.grad().item<double>(), 0.3, 1e-6);
  EXPECT_NEAR(other.grad().item<double>(), 1.2, 1e-6);
}

TEST(Optimizer, clips_bf16_gradients_by_a_norm_that_is_not_rounded_to_bf16) {
  const auto a = torch::zeros({1000}, torch::kBFloat16);
  a.mutable_grad() = torch::full({1000}, 1.3671875, torch::kBFloat16);
  Optimizer optimizer({a}, {});
  const double exact = 1.3671875 * std::sqrt(1000.0);
  EXPECT_NEAR(optimizer.clip(1).item<double>(), exact, 1e-5 * exact);
}

TEST(Optimizer, restores_of_split_parameters_its_own_rows) {
  const auto whole = torch::zeros({3, 2});
  const SplitParameter part{whole.narrow(0, 1, 1).clone(), whole.narrow(0, 1, 1), whole};
  Optimizer optimizer({part.own}, {"adamw", 0.9, 0}, {part});
  optimizer.state()[0].fill_(-1);
  const auto saved = torch::arange(6, torch::kFloat).view({3, 2});
  optimizer.restore({saved, saved * 2, torch::tensor(5.0F)}, 5);
  EXPECT_TRUE(torch::equal(optimizer.state()[0][1], saved[1]));
  EXPECT_TRUE(torch::equal(optimizer.state()[1][1], saved[1] * 2));
  EXPECT_EQ(optimizer.state()[2].item<float>(), 5);
  EXPECT_EQ(optimizer.state()[0][0][0].item<float>(), -1) << "another rank's row";
}

TEST(Optimizer, leaves_gradients_below_the_limit_alone) {
  auto a = torch::zeros({2});
  a.mutable_grad() = torch::tensor({3.0F, 4.1F});
  Optimizer optimizer({a}, {});
  optimizer.clip(6);
  EXPECT_TRUE(torch::equal(a.grad(), torch::tensor({3.0F, 4.1F})));
}

TEST(Optimizer, a_step_that_is_called_off_changes_nothing) {
  for (const char* kind : {"sgd", "adamw"}) {
    auto called_off = torch::ones({5}), plain = torch::ones({5});
    Optimizer optimizer({called_off}, {kind, 0.9, 0.01});
    Optimizer reference({plain}, {kind, 0.9, 0.01});
    const auto step = [](Optimizer& with, torch::Tensor& parameter, float gradient, float unless) {
      parameter.mutable_grad() = torch::full({5}, gradient);
      with.step(0.1, torch::full({}, unless));
    };
    step(optimizer, called_off, 1, 0);
    step(reference, plain, 1, 0);
    EXPECT_FALSE(torch::equal(plain, torch::ones({5}))) << kind;
    step(optimizer, called_off, std::nanf(""), 1);
    EXPECT_TRUE(torch::equal(called_off, plain)) << kind;
    step(optimizer, called_off, 0.5, 0);
    step(reference, plain, 0.5, 0);
    EXPECT_TRUE(torch::equal(called_off, plain)) << kind;
    const auto a = optimizer.state(), b = reference.state();
    for (std::size_t i = 0; i < a.size(); ++i) EXPECT_TRUE(torch::equal(a[i], b[i])) << kind;
  }
}

TEST(Checkpoint, brings_back_everything_bit_for_bit) {
  const std::string path = testing::TempDir() + "quadrat_checkpoint_test.safetensors";
  const auto make = [](std::uint64_t seed) {
    auto network = Network::create(Architecture::kResNet18, 3, seed);
    network->set_retraining(Retraining::kAll);
    return network;
  };
  auto network = make(1);
  Optimizer optimizer(network->trained_parameters(), {"adamw", 0.9, 0.01});
  for (auto& p : network->trained_parameters()) p.mutable_grad() = torch::ones_like(p);
  optimizer.step(0.1);
  RunPosition position;
  position.epoch = 3;
  position.step = 17;
  position.loss_sum = 1.0 / 3;
  position.created = "2026-01-02T03:04:05Z";
  position.tiles_crc32 = 0xfedcba98;
  position.epochs = {{1, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7}, {2, 1.0 / 7, 0, 0, 0, 0, 0, 0}};
  position.kept_epoch = 2;
  position.kept_probabilities = {0.25F, 0.5F, 0.25F};
  write_checkpoint(path, *network, optimizer, position);

  auto other = make(2);
  Optimizer other_optimizer(other->trained_parameters(), {"adamw", 0.9, 0.01});
  const RunPosition found = parse_checkpoint(read_file(path), path, *other, other_optimizer);
  EXPECT_EQ(found.step, 17);
  EXPECT_EQ(found.loss_sum, 1.0 / 3);
  EXPECT_EQ(found.created, position.created);
  EXPECT_EQ(found.tiles_crc32, 0xfedcba98U);
  EXPECT_EQ(found.epochs[1].train_loss, 1.0 / 7);
  EXPECT_EQ(found.kept_probabilities, position.kept_probabilities);
  EXPECT_EQ(other_optimizer.steps(), 1);
  for (std::size_t i = 0; i < network->parameters().size(); ++i) {
    EXPECT_TRUE(torch::equal(network->parameters()[i], other->parameters()[i]));
  }
  const auto a = optimizer.state(), b = other_optimizer.state();
  for (std::size_t i = 0; i < a.size(); ++i) EXPECT_TRUE(torch::equal(a[i], b[i]));

  // A foreign one may say anything.
  const auto written_as = [&](const std::function<void(RunPosition&)>& change) {
    RunPosition changed = position;
    change(changed);
    write_checkpoint(path, *network, optimizer, changed);
    parse_checkpoint(read_file(path), path, *other, other_optimizer);
  };
  EXPECT_NO_THROW(written_as([](RunPosition&) {}));
  EXPECT_THROW(written_as([](RunPosition& p) { p.step = -1; }), InputError);
  EXPECT_THROW(written_as([](RunPosition& p) { p.epoch = 2; }), InputError);
  EXPECT_THROW(written_as([](RunPosition& p) { p.kept_epoch = 3; }), InputError);
  EXPECT_THROW(written_as([](RunPosition& p) { p.kept_epoch = 0; }), InputError);
  EXPECT_THROW(written_as([](RunPosition& p) { p.epochs.clear(); }), InputError);
  write_checkpoint(path, *network, optimizer, position);
  WeightsFile foreign = read_weights(path);
  for (StoredTensor& tensor : foreign.tensors) {
    if (tensor.name != "kept.probabilities") continue;
    tensor.dtype = DType::kU8;
    tensor.shape = {5};
    tensor.data.resize(5);
  }
  write_safetensors(path, foreign);
  EXPECT_THROW(parse_checkpoint(read_file(path), path, *other, other_optimizer), InputError);

  Optimizer sgd(other->trained_parameters(), {});
  const auto refused = [&](Bytes file) {
    try {
      parse_checkpoint(std::move(file), path, *other, sgd);
      return std::string();
    } catch (const InputError& error) {
      return std::string(error.what());
    }
  };
  EXPECT_THAT(refused({}), testing::HasSubstr("cannot go on from '" + path + "'"));
  EXPECT_THAT(refused(Bytes(100)), testing::HasSubstr("remove the run's folder"));
  std::filesystem::remove(path);
}

TEST(FeatureCache, gathers_the_views_asked_for) {
  FeatureCache cache({3, 5, 9}, 2, 1, torch::kFloat);
  cache.put({{9, 1}, {3, 0}, {3, 1}}, torch::tensor({{91.F}, {30.F}, {31.F}}));
  cache.put({{5, 0}, {5, 1}, {9, 0}}, torch::tensor({{50.F}, {51.F}, {90.F}}));
  const auto rows = cache.gather(cache.rows_of({{9, 0}, {3, 1}, {5, 0}}));
  EXPECT_TRUE(torch::equal(rows, torch::tensor({{90.F}, {31.F}, {50.F}})));
}

}  // namespace
}  // namespace quadrat
