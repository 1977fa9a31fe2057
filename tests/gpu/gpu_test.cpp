// What only a GPU can show: its kernel, its tiles, its sums and its network beside the CPU's.
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
#include "quadrat/comm/gradient_reducer.h"
#include "quadrat/gpu/augment.h"
#include "quadrat/image/png.h"
#include "quadrat/model/network.h"
#include "quadrat/mpi/communicator.h"
#include "quadrat/train/optimizer.h"

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

/// Random tiles by the kernel and by TileTransform, [n, 3, side, side] float32 on the CPU each.
std::pair<torch::Tensor, torch::Tensor> augmented(Augment augment, gpu::Element element) {
  constexpr std::int64_t kCount = 24;
  const TileTransform transform = transform_of(augment);
  const std::size_t values = transform.values_per_tile();
  std::mt19937 random(1);
  std::vector<std::uint8_t> rgb(kCount * values);
  for (auto& byte : rgb) byte = static_cast<std::uint8_t>(random() >> 24);
  const auto tiles = on_gpu(rgb.data(), rgb.size());
  const auto lookup = on_gpu(transform.lookup().data(), transform.lookup().size() * sizeof(float));
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
  gpu::Format format;
  format.side_px = kSide;
  format.mean = {0.485F, 0.456F, 0.406F};
  format.std = {0.229F, 0.224F, 0.225F};
  format.lookup = static_cast<const float*>(lookup.const_data_ptr());
  const auto type = element == gpu::Element::kBf16 ? torch::kBFloat16 : torch::kFloat;
  auto out = torch::empty({kCount, kSide, kSide, 3}, torch::TensorOptions(type).device(kGpu));
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
                          {kept, {}, gpu::Element::kFloat32, 4});
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

/// Loss and gradients of a batch; TF32 is off where the precision is float32.
std::vector<torch::Tensor> gradients_on(torch::Device device) {
  auto network = Network::create(Architecture::kResNet18, 6, 3);
  network->to(device);
  network->set_retraining(Retraining::kAll);
  network->train_mode();
  torch::manual_seed(4);
  const auto input = torch::randn({8, 3, 224, 224}).contiguous(torch::MemoryFormat::ChannelsLast);
  const auto labels = torch::arange(8) % 6;
  const auto loss = at::cross_entropy_loss(network->forward(input.to(device)), labels.to(device));
  loss.backward();
  std::vector<torch::Tensor> all{loss.detach().cpu()};
  for (const auto& parameter : network->parameters()) all.push_back(parameter.grad().cpu());
  return all;
}

TEST(Network, gradients_are_the_cpus) {
  at::globalContext().setAllowTF32CuDNN(false);
  at::globalContext().setAllowTF32CuBLAS(false);
  const auto expected = gradients_on(torch::kCPU), found = gradients_on(kGpu);
  for (std::size_t i = 0; i < expected.size(); ++i) {
    const double scale = expected[i].abs().max().item<double>();
    EXPECT_LT((found[i] - expected[i]).abs().max().item<double>(), 2e-3 * scale + 1e-6) << i;
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
