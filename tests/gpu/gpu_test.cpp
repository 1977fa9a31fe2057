// What only a GPU can show: its kernel, its tiles, its sums and its network beside the CPU's.
#include <ATen/autocast_mode.h>
#include <ATen/cuda/CUDAContext.h>
#include <c10/cuda/CUDAFunctions.h>
#include <gtest/gtest.h>
#include <torch/torch.h>
#include <unistd.h>

#include <cmath>
#include <cstring>
#include <random>
#include <vector>

#include "device_tiles.h"
#include "on_gpu.h"
#include "quadrat/comm/gradient_reducer.h"
#include "quadrat/comm/nccl.h"
#include "quadrat/gpu/augment.h"
#include "quadrat/image/png.h"
#include "quadrat/model/input_blocks.h"
#include "quadrat/model/network.h"
#include "quadrat/model/weights.h"
#include "quadrat/mpi/communicator.h"
#include "quadrat/score/device_network.h"
#include "quadrat/score/network.h"
#include "quadrat/train/optimizer.h"
#include "session_on_gpu.h"
#include "step_graphs.h"

namespace quadrat {
namespace {

const torch::Device kGpu(torch::kCUDA, 0);
constexpr std::uint32_t kSide = 224;

TileTransform transform_of(Augment augment) {
  return {kSide, {0.485F, 0.456F, 0.406F}, {0.229F, 0.224F, 0.225F}, augment, 5};
}

torch::Tensor on_gpu(const void* data, std::size_t bytes) {
  auto host = torch::empty({static_cast<std::int64_t>(bytes)}, torch::kByte);
  std::memcpy(host.mutable_data_ptr(), data, bytes);
  return host.to(kGpu);
}

double relative_error(const torch::Tensor& found, const torch::Tensor& expected) {
  const auto wide = found.cpu().to(torch::kDouble);
  return ((wide - expected).norm() / expected.norm().clamp_min(1e-30)).item<double>();
}

/// Random tiles by the kernel and by TileTransform, [n, 3, side, side] float32 on the CPU each.
std::pair<torch::Tensor, torch::Tensor> augmented(
    Augment augment, gpu::Element element, const InputBlocks& blocks = InputBlocks::plain(kSide)) {
  constexpr std::int64_t kCount = 24;
  const TileTransform transform = transform_of(augment);
  const std::size_t values = transform.values_per_tile();
  std::mt19937 random(1);
  std::vector<std::uint8_t> rgb(kCount * values);
  for (auto& byte : rgb) byte = static_cast<std::uint8_t>(random() >> 24);
  const auto tiles = on_gpu(rgb.data(), rgb.size());
  auto expected = torch::empty({kCount, kSide, kSide, 3});
  std::vector<gpu::Sample> samples(kCount);
  for (std::size_t i = 0; i < samples.size(); ++i) {
    samples[i] = {static_cast<const std::uint8_t*>(tiles.const_data_ptr()) + i * values,
                  transform.draw(2, i)};
    if (augment == Augment::kDihedral) samples[i].draw.symmetry = i % 8;
    transform.apply(samples[i].draw, rgb.data() + i * values,
                    expected.mutable_data_ptr<float>() + i * values);
  }
  const auto samples_there = on_gpu(samples.data(), samples.size() * sizeof(gpu::Sample));
  gpu::Format format = gpu::format_of(transform, blocks);
  format.crops = augment == Augment::kSample;
  const auto type = element == gpu::Element::kBf16 ? torch::kBFloat16 : torch::kFloat;
  auto out = torch::full({kCount, blocks.side, blocks.side, blocks.channels}, std::nanf(""),
                         torch::TensorOptions(type).device(kGpu));
  gpu::augment(static_cast<const gpu::Sample*>(samples_there.const_data_ptr()), kCount, format,
               element, out.mutable_data_ptr(), at::cuda::getCurrentCUDAStream().stream());
  return {out.cpu().to(torch::kFloat), expected};
}

TEST(Augmentation, symmetries_are_the_cpus_bits) {
  const auto [found, expected] = augmented(Augment::kDihedral, gpu::Element::kFloat32);
  EXPECT_TRUE(torch::equal(found, expected));
}

TEST(Augmentation, crops_are_the_cpus_but_for_the_order_of_a_sum) {
  const auto [found, expected] = augmented(Augment::kSample, gpu::Element::kFloat32);
  EXPECT_LT((found - expected).abs().max().item<double>(), 224 * 306 * 0x1p-24 * 0.2 / 255 / 0.224);
}

TEST(Augmentation, bf16_is_within_its_rounding) {
  for (const Augment augment : {Augment::kNone, Augment::kSample, Augment::kDihedral}) {
    const auto [found, expected] = augmented(augment, gpu::Element::kBf16);
    EXPECT_TRUE(((found - expected).abs() <= expected.abs() * 0x1p-8 + 1e-6).all().item<bool>());
  }
}

/// In blocks the kernel writes what torch makes of its pixels, whatever the symmetry.
TEST(Augmentation, in_blocks_is_the_same_pixels) {
  for (const Augment augment : {Augment::kDihedral, Augment::kSample}) {
    for (const auto element : {gpu::Element::kFloat32, gpu::Element::kBf16}) {
      const auto pixels = augmented(augment, element).first.permute({0, 3, 1, 2});
      for (const InputBlocks& blocks : {InputBlocks::for_convolution(kSide, 7, 2, 3),
                                        InputBlocks::for_convolution(kSide, 11, 4, 2)}) {
        const auto found = augmented(augment, element, blocks).first.permute({0, 3, 1, 2});
        EXPECT_TRUE(torch::equal(found, to_blocks(pixels, blocks))) << blocks.block_px;
      }
    }
  }
}

TEST(TilesOnGpu, batches_are_the_cpus) {
  std::string name = "/tmp/quadrat-test-XXXXXX";
  const Path root = ::mkdtemp(name.data());
  std::mt19937 random(2);
  std::vector<std::uint32_t> tiles;
  for (std::uint32_t tile = 0; tile < 20; ++tile) {
    std::vector<std::uint8_t> rgb(std::size_t{3} * kSide * kSide);
    for (auto& byte : rgb) byte = static_cast<std::uint8_t>(random() >> 24);
    const Path folder = root / (tile < 10 ? "a" : "b");
    make_folder(folder);
    write_file(folder / (std::to_string(10 + tile) + ".png"), encode_png(rgb, kSide, kSide));
    tiles.push_back(tile);
  }
  const Catalog catalog = list_labelled_tiles(root);
  const TileTransform transform = transform_of(Augment::kDihedral);
  const SamplesOfStep samples = [](std::int64_t step) {
    std::vector<Sample> of_step;
    for (std::int64_t i = 0; i < (step == 3 ? 0 : 7); ++i)
      of_step.push_back({static_cast<std::uint32_t>((step * 5 + i) % 20), 1});
    return of_step;
  };
  for (const std::size_t kept : {0U, 9U, 20U}) {
    const auto device = make_cuda_tile_device(kGpu);
    EXPECT_GT(device->free_bytes(), 0U);
    DeviceTiles on_device(*device, transform, catalog, tiles,
                          {kept, {}, gpu::Element::kFloat32, InputBlocks::plain(kSide), 4});
    TileStore store(catalog, tiles, kSide, {});
    BatchStream expected(store, transform, true, samples, {0, 12});
    const auto found = on_device.stream(true, samples, {0, 12});
    for (int step = 0; step < 12; ++step) {
      const Batch batch = found->next(), wanted = expected.next();
      EXPECT_TRUE(batch.input.is_contiguous(torch::MemoryFormat::ChannelsLast));
      EXPECT_TRUE(torch::equal(batch.input.cpu(), wanted.input)) << kept << ", step " << step;
    }
  }
  std::filesystem::remove_all(root);
}

TEST(Nccl, one_rank_keeps_its_sums) {
  const auto ranks = mpi::Communicator::world();
  ASSERT_EQ(ranks.size(), 1);
  const auto reduce = comm::make_nccl_all_reduce(ranks, 0);
  for (const auto type : {torch::kFloat, torch::kDouble, torch::kBFloat16}) {
    const auto values = torch::randn({100'003}, torch::kFloat).to(kGpu).to(type);
    auto sum = values.clone();
    const auto pending = reduce->start(sum);
    pending->poll();
    pending->wait();
    reduce->settle();
    EXPECT_TRUE(torch::equal(sum, values));
  }
  reduce->settle();  // nothing is on its way
}

/// Loss and gradients of a batch, on a GPU of tiles in blocks.
std::vector<torch::Tensor> gradients_on(torch::Device device, Architecture architecture) {
  auto network = Network::create(architecture, 6, 3);
  network->to(device);
  network->set_retraining(Retraining::kAll);
  network->train_mode();
  network->set_dropout_keys(torch::arange(1, 9, torch::kLong).to(device));
  torch::manual_seed(4);
  auto input = torch::randn({8, 3, 224, 224}).contiguous(torch::MemoryFormat::ChannelsLast);
  if (device.is_cuda()) input = to_blocks(input, network->input_blocks(224)).to(device);
  const auto labels = torch::arange(8) % 6;
  const auto loss = at::cross_entropy_loss(network->forward(input), labels.to(device));
  loss.backward();
  std::vector<torch::Tensor> all{loss.detach().cpu()};
  for (const auto& parameter : network->parameters()) all.push_back(parameter.grad().cpu());
  return all;
}

/// By norm: some of ten million ReLUs lie so near 0 that float32's rounding turns them.
TEST(NetworkOnGpu, has_the_cpus_gradients) {
  at::globalContext().setAllowTF32CuDNN(false);
  at::globalContext().setAllowTF32CuBLAS(false);
  for (const auto architecture : {Architecture::kAlexNet, Architecture::kResNet18}) {
    const auto expected = gradients_on(torch::kCPU, architecture);
    const auto found = gradients_on(kGpu, architecture);
    EXPECT_LT(relative_error(found[0], expected[0].to(torch::kDouble)), 1e-5);
    for (std::size_t i = 1; i < expected.size(); ++i)
      EXPECT_LT(relative_error(found[i], expected[i].to(torch::kDouble)), 0.01) << i;
  }
}

TEST(NetworkOnGpu, compiled_for_scoring_has_the_cpus_logits) {
  std::mt19937 random(8);
  std::vector<std::uint8_t> tiles(std::size_t{11} * 3 * kSide * kSide);
  for (auto& byte : tiles) byte = static_cast<std::uint8_t>(random() >> 24);
  for (const auto architecture : {Architecture::kAlexNet, Architecture::kResNet18}) {
    const auto network = Network::create(architecture, 6, 3);
    ModelCard card;
    card.architecture = architecture;
    card.classes = {"a", "b", "c", "d", "e", "f"};
    const auto compiled = [&](torch::Device device, torch::ScalarType dtype) {
      return score::DeviceNetwork(
          score::fuse_network(to_weights_file(*network, card), card, "model"), device, dtype);
    };
    const auto expected = compiled(torch::kCPU, torch::kFloat).infer(tiles);
    const auto fp32 = compiled(kGpu, torch::kFloat).infer(tiles);
    EXPECT_LT(relative_error(fp32.features, expected.features.to(torch::kDouble)), 1e-5);
    EXPECT_LT(relative_error(fp32.logits, expected.logits.to(torch::kDouble)), 1e-5);
    const auto bf16 = compiled(kGpu, torch::kBFloat16).infer(tiles);
    EXPECT_LT(relative_error(bf16.features, expected.features.to(torch::kDouble)), 0.05);
  }
}

enum class Then { kNothing, kRelu, kShortcutRelu, kReluPool };

/// Input, shortcut, and the weights of the outputs in a loss; all as BatchNorm's reference has
/// them.
struct NormCase {
  torch::Tensor input, shortcut, output_weight;
};

NormCase norm_case(std::int64_t channels, torch::ScalarType type, Then then, std::int64_t images,
                   std::int64_t height, std::int64_t width) {
  const auto map = [&](std::int64_t h, std::int64_t w) {
    return torch::randn({images, channels, h, w}).contiguous(torch::MemoryFormat::ChannelsLast);
  };
  const bool pooled = then == Then::kReluPool;
  // A mean far from 0 is what a careless sum of squares loses. Before a ReLU it is nearer: the
  // farther, the more values lie so close to 0 that float32's rounding turns them.
  const double mean = then == Then::kNothing ? 30 : 1;
  return {(map(height, width) * 0.5 + mean).to(type), map(height, width).to(type),
          map(pooled ? (height + 1) / 2 : height, pooled ? (width + 1) / 2 : width).to(type)};
}

/// Beside torch's own layers in float64 on the same, rounded, numbers. Of bf16 only what is written
/// is rounded, to 8 bits. In float32 a mean of 30 leaves 30 * 2^-23 / 0.5 of a value; and one of a
/// million ReLUs that rounding turns shows as 1e-3 in a gradient's norm.
void expect_torchs_batch_norm(std::int64_t channels, torch::ScalarType type, Then then,
                              BatchNormMode mode, std::int64_t images, std::int64_t height,
                              std::int64_t width) {
  SCOPED_TRACE(testing::Message() << channels << " channels, " << type << ", " << int(then)
                                  << ", mode " << int(mode) << ", " << images << "x" << height
                                  << "x" << width);
  torch::manual_seed(7);
  const NormCase given = norm_case(channels, type, then, images, height, width);
  torch::nn::BatchNorm2d reference(channels);
  reference->to(torch::kDouble);
  reference->weight.data().copy_(torch::randn({channels}));
  reference->bias.data().copy_(torch::randn({channels}));
  reference->running_mean.fill_(then == Then::kNothing ? 30 : 1)
      .add_(torch::randn({channels}), 0.1);
  if (mode == BatchNormMode::kFrozen) reference->eval();
  BatchNorm norm(channels);
  norm->weight.data().copy_(reference->weight.data());
  norm->bias.data().copy_(reference->bias.data());
  norm->running_mean.copy_(reference->running_mean);
  norm->to(kGpu);
  int sums = 0;
  norm->set_mode(mode, [&](torch::Tensor& values) {
    EXPECT_EQ(values.scalar_type(), torch::kDouble);
    ++sums;
  });

  const auto of_reference = [](const torch::Tensor& tensor) {
    return tensor.to(torch::kDouble).clone().requires_grad_();
  };
  auto reference_input = of_reference(given.input),
       reference_shortcut = of_reference(given.shortcut);
  auto expected = reference(reference_input);
  if (then == Then::kShortcutRelu) expected = expected + reference_shortcut;
  if (then != Then::kNothing) expected = expected.relu();
  if (then == Then::kReluPool) expected = torch::max_pool2d(expected, 3, 2, 1);
  (expected * given.output_weight.to(torch::kDouble)).sum().backward();

  auto input = given.input.to(kGpu).requires_grad_(),
       shortcut = given.shortcut.to(kGpu).requires_grad_();
  const auto found = then == Then::kNothing        ? norm(input)
                     : then == Then::kRelu         ? norm->forward_relu(input)
                     : then == Then::kShortcutRelu ? norm->forward_relu(input, shortcut)
                                                   : norm->forward_relu_pool(input);
  ASSERT_EQ(found.scalar_type(), type);
  EXPECT_TRUE(found.is_contiguous(torch::MemoryFormat::ChannelsLast));
  found.backward(given.output_weight.to(kGpu));
  EXPECT_EQ(sums, mode == BatchNormMode::kSync ? 2 : 0);

  const double tolerance = type == torch::kBFloat16 ? 0x1p-8 : 2e-5;
  const double of_gradients = std::max(2 * tolerance, then == Then::kNothing ? 0 : 2e-3);
  EXPECT_LT(relative_error(found, expected), tolerance);
  EXPECT_LT(relative_error(input.grad(), reference_input.grad()), of_gradients);
  if (then == Then::kShortcutRelu) {
    EXPECT_LT(relative_error(shortcut.grad(), reference_shortcut.grad()), of_gradients);
  }
  EXPECT_LT(relative_error(norm->weight.grad(), reference->weight.grad()), of_gradients);
  EXPECT_LT(relative_error(norm->bias.grad(), reference->bias.grad()), of_gradients);
  EXPECT_LT(relative_error(norm->running_mean, reference->running_mean), 1e-6);
  EXPECT_LT(relative_error(norm->running_var, reference->running_var), 1e-5);
}

TEST(BatchNormOnGpu, is_torchs) {
  for (const auto type : {torch::kFloat, torch::kBFloat16}) {
    for (const Then then : {Then::kNothing, Then::kRelu, Then::kShortcutRelu, Then::kReluPool}) {
      for (const auto mode : {BatchNormMode::kLocal, BatchNormMode::kSync, BatchNormMode::kFrozen})
        expect_torchs_batch_norm(64, type, then, mode, 5, 9, 12);
      expect_torchs_batch_norm(192, type, then, BatchNormMode::kLocal, 3, 7, 7);
      expect_torchs_batch_norm(512, type, then, BatchNormMode::kLocal, 40, 14, 14);
      expect_torchs_batch_norm(64, type, then, BatchNormMode::kLocal, 32, 56, 56);
      expect_torchs_batch_norm(1024, type, then, BatchNormMode::kLocal, 8, 2, 1);
    }
  }
}

TEST(BatchNormOnGpu, adds_up_the_gradients_of_two_readers) {
  for (const bool has_both : {true, false}) {
    torch::manual_seed(2);
    const NormCase given = norm_case(64, torch::kFloat, Then::kShortcutRelu, 4, 6, 6);
    std::vector<torch::Tensor> all[2];
    for (const bool twice : {false, true}) {
      BatchNorm norm(64);
      norm->to(kGpu);
      auto input = given.input.to(kGpu).requires_grad_();
      auto shortcut = given.shortcut.to(kGpu).requires_grad_();
      const auto weight = given.output_weight.to(kGpu);
      torch::Tensor loss;
      if (twice) {
        const auto [one, other] = norm->forward_relu_twice(input, shortcut);
        EXPECT_TRUE(torch::equal(one, other));
        loss = has_both ? (one * weight).sum() + (other * other).sum() : (other * other).sum();
      } else {
        const auto output = norm->forward_relu(input, shortcut);
        loss = (output * output).sum();
        if (has_both) loss = loss + (output * weight).sum();
      }
      loss.backward();
      all[twice] = {input.grad(), shortcut.grad(), norm->weight.grad(), norm->bias.grad()};
    }
    for (std::size_t i = 0; i < all[0].size(); ++i)
      EXPECT_TRUE(torch::allclose(all[1][i], all[0][i], 1e-5, 1e-5)) << i << has_both;
  }
}

/// A convolution's bias, ReLU and pooling, as AlexNet has them, beside torch's.
TEST(BatchNormOnGpu, of_a_bias_alone_is_torchs) {
  for (const std::int64_t side : {55, 13, 6}) {
    torch::manual_seed(2);
    const auto x = torch::randn({3, 64, side, side}).contiguous(torch::MemoryFormat::ChannelsLast);
    const auto bias = torch::randn({64});
    for (const bool is_pooled : {true, false}) {
      auto wide = x.to(torch::kDouble).requires_grad_(),
           wide_bias = bias.to(torch::kDouble).requires_grad_();
      auto expected = (wide + wide_bias.view({1, -1, 1, 1})).relu();
      if (is_pooled) expected = torch::max_pool2d(expected, 3, 2);
      const auto weight = torch::randn_like(expected);
      (expected * weight).sum().backward();
      auto input = x.to(kGpu).requires_grad_(), on_gpu = bias.to(kGpu).requires_grad_();
      const auto found = rectified_on_gpu(input, on_gpu, is_pooled);
      found.backward(weight.to(torch::kFloat).to(kGpu));
      EXPECT_LT(relative_error(found, expected), 1e-6) << side;
      EXPECT_LT(relative_error(input.grad(), wide.grad()), 1e-6) << side;
      EXPECT_LT(relative_error(on_gpu.grad(), wide_bias.grad()), 1e-5) << side;
    }
  }
}

TEST(BatchNormOnGpu, is_the_same_to_the_bit_each_time) {
  std::vector<torch::Tensor> first;
  for (int run = 0; run < 3; ++run) {
    torch::manual_seed(3);
    const NormCase given = norm_case(64, torch::kBFloat16, Then::kReluPool, 64, 56, 56);
    BatchNorm norm(64);
    norm->to(kGpu);
    auto input = given.input.to(kGpu).requires_grad_();
    const auto output = norm->forward_relu_pool(input);
    output.backward(given.output_weight.to(kGpu));
    const std::vector<torch::Tensor> all{output, input.grad(), norm->weight.grad(),
                                         norm->running_var};
    if (run == 0) first = all;
    for (std::size_t i = 0; i < all.size(); ++i) EXPECT_TRUE(torch::equal(all[i], first[i])) << i;
  }
}

TEST(BatchNormOnGpu, of_no_tiles_still_takes_part_in_sums) {
  BatchNorm norm(64);
  norm->to(kGpu);
  int sums = 0;
  norm->set_mode(BatchNormMode::kSync, [&](torch::Tensor& values) {
    ++sums;
    values += 1;  // as if another rank had rows
  });
  auto input = torch::empty({0, 64, 8, 8}, torch::TensorOptions(torch::kBFloat16).device(kGpu))
                   .contiguous(torch::MemoryFormat::ChannelsLast)
                   .requires_grad_();
  const auto output = norm->forward_relu(input);
  output.sum().backward();
  EXPECT_EQ(sums, 2);
  EXPECT_TRUE((norm->weight.grad() == 0).all().item<bool>());
}

TEST(Dropout, on_a_gpu_has_the_cpus_mask) {
  for (const auto type : {torch::kFloat, torch::kBFloat16}) {
    std::vector<torch::Tensor> all[2];
    for (const torch::Device device : {torch::Device(torch::kCPU), kGpu}) {
      auto network = Network::create(Architecture::kAlexNet, 6, 3);
      network->to(device, type);
      network->set_retraining(Retraining::kFullyConnected);
      network->train_mode();
      // Powers of two: no sum of the layers' products rounds, whatever its order.
      const torch::NoGradGuard no_gradients;
      for (auto& parameter : network->parameters()) parameter.fill_(0x1p-14);
      network->set_dropout_keys(torch::arange(5, 8, torch::kLong).to(device));
      auto features = torch::ones({3, 9216}, torch::TensorOptions(type).device(device));
      const torch::AutoGradMode gradients(true);
      features.requires_grad_();
      const auto logits = network->trained_part(features);
      logits.sum().backward();
      all[device.is_cuda()] = {features.grad().ne(0).cpu(),
                               logits.detach().cpu().to(torch::kFloat)};
    }
    EXPECT_TRUE(torch::equal(all[0][0], all[1][0]));
    EXPECT_NEAR(all[0][0].to(torch::kFloat).mean().item<double>(), 0.5, 0.02);
    EXPECT_TRUE(torch::allclose(all[0][1], all[1][1], 1e-2));
  }
}

TEST(StepGraphs, play_back_what_was_queued_the_second_time) {
  leave_default_stream(kGpu);
  const auto graphs = make_cuda_step_graphs(kGpu);
  const auto on_gpu = torch::TensorOptions(torch::kFloat).device(kGpu);
  auto sum = torch::zeros({}, on_gpu), small = torch::ones({3}, on_gpu),
       large = torch::ones({1000}, on_gpu);
  int queued = 0;
  const auto step = [&](const torch::Tensor& values) {
    graphs->run(values.size(0), [&] {
      ++queued;
      sum += (values * 2).sum();
    });
  };
  for (int i = 0; i < 5; ++i) {
    step(large);
    step(small);
    large += 1;
  }
  EXPECT_EQ(queued, 4);
  EXPECT_EQ(sum.item<float>(), 2 * (1000 * (1 + 2 + 3 + 4 + 5) + 5 * 3));

  // The host may not look at what a recording has only noted down.
  const auto looks = [&] { queued += sum.item<float>() > 0; };
  graphs->run(7, looks);
  EXPECT_ANY_THROW(graphs->run(7, looks));
  step(small);
  EXPECT_EQ(sum.item<float>(), 2 * (1000 * (1 + 2 + 3 + 4 + 5) + 6 * 3));
}

/// AlexNet's linear layers, whose sums have one order, after steps of changing batches.
std::vector<torch::Tensor> trained(bool recorded, const char* kind, bool bf16) {
  const auto on_gpu = torch::TensorOptions(torch::kFloat).device(kGpu);
  auto network = Network::create(Architecture::kAlexNet, 6, 3);
  network->to(kGpu);
  network->set_retraining(Retraining::kFullyConnected);
  network->train_mode();
  const auto parameters = network->trained_parameters();
  Optimizer optimizer(parameters, {kind, 0.9, 1e-4});
  const auto graphs = make_cuda_step_graphs(kGpu);
  auto input = torch::empty({16, 9216}, on_gpu);
  auto labels = torch::empty({16}, on_gpu.dtype(torch::kLong)), keys = labels.clone();
  const auto called_off = torch::zeros({}, on_gpu);
  const auto step = [&] {
    for (const auto& parameter : parameters) parameter.mutable_grad().reset();
    network->set_dropout_keys(keys);
    at::autocast::set_autocast_enabled(torch::kCUDA, bf16);
    at::autocast::set_autocast_dtype(torch::kCUDA, torch::kBFloat16);
    at::autocast::increment_nesting();
    const auto logits = network->trained_part(input);
    if (at::autocast::decrement_nesting() == 0) at::autocast::clear_cache();
    at::autocast::set_autocast_enabled(torch::kCUDA, false);
    at::cross_entropy_loss(logits.to(torch::kFloat), labels).backward();
    optimizer.clip(2);
    optimizer.queue_step(called_off);
  };
  for (int i = 0; i < 6; ++i) {
    torch::manual_seed(i);
    input.copy_(torch::randn({16, 9216}));
    labels.copy_((torch::arange(16) * (i + 1)) % 6);
    keys.copy_(torch::arange(16) + 100 * i);
    called_off.fill_(i == 4);
    optimizer.begin_step(0.01 / (i + 1));
    if (recorded) {
      graphs->run(16, step);
    } else {
      step();
    }
  }
  std::vector<torch::Tensor> all;
  for (const auto& tensor : parameters) all.push_back(tensor.detach().cpu());
  for (const auto& tensor : optimizer.state()) all.push_back(tensor.cpu());
  return all;
}

TEST(StepGraphs, train_as_steps_that_are_not_recorded) {
  leave_default_stream(kGpu);
  for (const char* kind : {"sgd", "adamw"}) {
    for (const bool bf16 : {false, true}) {
      const auto once = trained(false, kind, bf16), recorded = trained(true, kind, bf16);
      for (std::size_t i = 0; i < once.size(); ++i)
        EXPECT_TRUE(torch::equal(once[i], recorded[i])) << kind << bf16 << " tensor " << i;
    }
  }
}

TEST(Optimizer, a_step_called_off_on_the_gpu_changes_nothing) {
  for (const char* kind : {"sgd", "adamw"}) {
    auto parameter = torch::ones({1000}, torch::TensorOptions(torch::kFloat).device(kGpu));
    Optimizer optimizer({parameter}, {kind, 0.9, 0.01});
    const auto flag = [](float value) {
      return torch::full({}, value, torch::TensorOptions(torch::kFloat).device(kGpu));
    };
    parameter.mutable_grad() = torch::full_like(parameter, std::nanf(""));
    optimizer.step(0.1, flag(1));
    EXPECT_TRUE((parameter == 1).all().item<bool>()) << kind;
    parameter.mutable_grad() = torch::ones_like(parameter);
    optimizer.step(0.1, flag(0));
    EXPECT_TRUE((parameter < 1).all().item<bool>()) << kind;
  }
}

}  // namespace
}  // namespace quadrat
