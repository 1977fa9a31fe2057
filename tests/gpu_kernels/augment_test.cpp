// The GPU's augmentation and dropout, run by the CPU (see cuda_on_cpu), against the CPU's own.
#include "quadrat/gpu/augment.h"

#include <gtest/gtest.h>

#include <cmath>
#include <optional>
#include <string>

#include "cuda_runtime.h"
#include "quadrat/base/error.h"
#include "quadrat/base/random.h"
#include "quadrat/gpu/dropout.h"
#include "values.h"

namespace quadrat::gpu {
namespace {

using cuda_on_cpu::Order;

struct Tiles {
  std::uint32_t side;
  Augment augment;
  std::size_t count;
  TileTransform transform{side, {0.485F, 0.456F, 0.406F}, {0.229F, 0.224F, 0.225F}, augment, 5};
  std::vector<std::uint8_t> rgb = std::vector<std::uint8_t>(count * 3 * side * side);
  std::vector<Sample> samples;

  Tiles(std::uint32_t side_, Augment augment_, std::size_t count_)
      : side(side_), augment(augment_), count(count_) {
    std::mt19937 random(1);
    for (auto& byte : rgb) byte = static_cast<std::uint8_t>(random() >> 24);
    for (std::size_t i = 0; i < count; ++i) {
      samples.push_back({rgb.data() + i * transform.values_per_tile(), transform.draw(2, i)});
      AugmentDraw& draw = samples.back().draw;
      if (augment == Augment::kDihedral) draw.symmetry = i % 8;
      if (augment != Augment::kSample) continue;
      // The first two lie at the tile's edges, one of them mirrored.
      if (i < 2) draw.mirrors = i == 1;
      const float far = static_cast<float>(side) * (1 - static_cast<float>(augment::kCropSide));
      if (i == 0) draw.left_px = draw.top_px = 0;
      if (i == 1) draw.left_px = draw.top_px = far;
    }
  }

  Values by_kernel(Element element, const InputBlocks& blocks, bool as_samples = true) const {
    Format format = format_of(transform, blocks);
    format.crops = augment == Augment::kSample;
    if (!as_samples) format.tiles = rgb.data();
    Values out(element, count * blocks.side * blocks.side * blocks.channels, -99);
    gpu::augment(as_samples ? samples.data() : nullptr, static_cast<std::int64_t>(count), format,
                 element, out.data(), nullptr);
    return out;
  }

  /// As TileTransform has it, [count, side, side, 3].
  std::vector<float> by_cpu() const {
    std::vector<float> out(rgb.size());
    for (std::size_t i = 0; i < count; ++i)
      transform.apply(samples[i].draw, samples[i].rgb,
                      out.data() + i * transform.values_per_tile());
    return out;
  }

  /// Where a value of blocks is among the pixels' values; or none, where it is zero.
  std::optional<std::size_t> pixel_value(const InputBlocks& blocks, std::size_t i) const {
    const std::size_t per_tile = std::size_t{blocks.side} * blocks.side * blocks.channels;
    const std::size_t tile = i / per_tile, position = i % per_tile / blocks.channels,
                      channel = i % blocks.channels;
    const std::size_t k = channel / 3;
    if (k >= std::size_t{blocks.block_px} * blocks.block_px) return {};
    const std::size_t y = position / blocks.side * blocks.block_px + k / blocks.block_px;
    const std::size_t x = position % blocks.side * blocks.block_px + k % blocks.block_px;
    if (y < blocks.before_px || x < blocks.before_px || y >= blocks.before_px + side ||
        x >= blocks.before_px + side)
      return {};
    return ((tile * side + y - blocks.before_px) * side + x - blocks.before_px) * 3 + channel % 3;
  }
};

struct Case {
  std::uint32_t side;
  InputBlocks blocks;
  Order order;
};

class AugmentKernels : public testing::TestWithParam<Case> {
 protected:
  void SetUp() override { cuda_on_cpu::set_order(GetParam().order); }
};

std::vector<Case> cases() {
  std::vector<Case> all;
  // 224 is the tiles' own side; of 7 and 30 pixels rows are no whole number of words or of stores.
  // Of 28 pixels ResNet18's last strip is padding alone.
  for (const std::uint32_t side : {7U, 16U, 28U, 30U, 224U}) {
    std::vector<InputBlocks> layouts{InputBlocks::plain(side),
                                     InputBlocks::for_convolution(side, 7, 2, 3)};
    if (side > 7) layouts.push_back(InputBlocks::for_convolution(side, 11, 4, 2));
    for (const InputBlocks& blocks : layouts) {
      for (const Order order : {Order::kForward, Order::kBackward, Order::kShuffled}) {
        if (side < 224 || order == Order::kShuffled) all.push_back({side, blocks, order});
      }
    }
  }
  return all;
}

std::string name_of(const testing::TestParamInfo<Case>& of) {
  return "side" + std::to_string(of.param.side) + "_blocks" +
         std::to_string(of.param.blocks.block_px) + "_" + order_name(of.param.order);
}

INSTANTIATE_TEST_SUITE_P(Layouts, AugmentKernels, testing::ValuesIn(cases()), name_of);

TEST_P(AugmentKernels, give_the_cpus_bits_under_every_symmetry) {
  const Tiles tiles(GetParam().side, Augment::kDihedral, 8);
  const auto expected = tiles.by_cpu();
  for (const Element element : {Element::kFloat32, Element::kBf16}) {
    const Values found = tiles.by_kernel(element, GetParam().blocks);
    for (std::size_t i = 0; i < found.size(); ++i) {
      const auto from = tiles.pixel_value(GetParam().blocks, i);
      ASSERT_EQ(found.at(i), from ? found.stored(expected[*from]) : 0) << i;
    }
  }
}

TEST_P(AugmentKernels, crop_and_jitter_as_the_cpu_does) {
  const Tiles tiles(GetParam().side, Augment::kSample, 3);
  const auto expected = tiles.by_cpu();
  // The mean grey, up to 255 times a brightness of 1.2, is another sum, in float32 over
  // at most 224 pixels at a time. An error of it reaches a value times 0.2 / 255 / std.
  const double tolerance = 224 * 306 * 0x1p-24 * 0.2 / 255 / 0.224;
  for (const Element element : {Element::kFloat32, Element::kBf16}) {
    const Values found = tiles.by_kernel(element, GetParam().blocks);
    for (std::size_t i = 0; i < found.size(); ++i) {
      const auto from = tiles.pixel_value(GetParam().blocks, i);
      const double wanted = from ? expected[*from] : 0;
      ASSERT_NEAR(found.at(i), wanted,
                  tolerance + (element == Element::kBf16 ? 0x1p-8 * std::abs(wanted) : 0))
          << i;
    }
  }
}

/// Contrast is what the mean grey goes into.
TEST_P(AugmentKernels, give_the_cpus_bits_of_crops_without_contrast) {
  Tiles tiles(GetParam().side, Augment::kSample, 3);
  for (Sample& sample : tiles.samples) sample.draw.contrast = 1;
  const auto expected = tiles.by_cpu();
  const Values found = tiles.by_kernel(Element::kFloat32, GetParam().blocks);
  for (std::size_t i = 0; i < found.size(); ++i) {
    const auto from = tiles.pixel_value(GetParam().blocks, i);
    ASSERT_EQ(found.at(i), from ? expected[*from] : 0) << i;
  }
}

TEST_P(AugmentKernels, take_tiles_as_they_lie) {
  const Tiles tiles(GetParam().side, Augment::kNone, 2);
  const Values found = tiles.by_kernel(Element::kBf16, GetParam().blocks, false);
  const Values expected = tiles.by_kernel(Element::kBf16, GetParam().blocks);
  for (std::size_t i = 0; i < found.size(); ++i) ASSERT_EQ(found.at(i), expected.at(i)) << i;
}

TEST(AugmentKernelsOfMany, take_more_tiles_than_a_grid_has) {
  cuda_on_cpu::set_order(Order::kForward);
  const Tiles tiles(2, Augment::kDihedral, 32768 + 5);
  const auto expected = tiles.by_cpu();
  const Values found = tiles.by_kernel(Element::kFloat32, InputBlocks::plain(2));
  for (std::size_t i = 0; i < found.size(); ++i) ASSERT_EQ(found.at(i), expected[i]) << i;
}

/// The largest that quadrat-score takes: a processor's shared memory has to be asked for.
TEST(AugmentKernelsOfLargeTiles, are_as_those_of_small_ones) {
  cuda_on_cpu::set_order(Order::kForward);
  for (const Augment augment : {Augment::kNone, Augment::kSample}) {
    Tiles tiles(1024, augment, 1);
    tiles.samples.front().draw.contrast = 1;  // the mean grey would differ in its rounding
    const auto expected = tiles.by_cpu();
    const Values found = tiles.by_kernel(Element::kFloat32, InputBlocks::plain(1024));
    for (std::size_t i = 0; i < found.size(); ++i) ASSERT_EQ(found.at(i), expected[i]) << i;
  }
}

TEST(AugmentKernelsOfLargeTiles, say_that_cuda_refused) {
  const Tiles tiles(2048, Augment::kNone, 1);
  try {
    tiles.by_kernel(Element::kBf16, InputBlocks::plain(2048));
    FAIL() << "nothing was refused";
  } catch (const DeviceError& error) {
    EXPECT_NE(std::string(error.what()).find("cudaErrorInvalidValue"), std::string::npos);
  }
}

TEST(DropoutKernel, has_the_mask_of_each_rows_key) {
  constexpr std::int64_t kRows = 5, kColumns = 192;
  const std::vector<std::int64_t> keys{3, 1, 4, 1, 5};
  for (const Element element : {Element::kFloat32, Element::kBf16}) {
    const Values values = Values::random(element, kRows * kColumns, 1);
    Values out(element, values.size());
    dropout(values.data(), element, kRows, kColumns, keys.data(), 2, out.data(), nullptr);
    for (std::size_t row = 0; row < kRows; ++row) {
      KeyedRandom random({kStreamDropout, static_cast<std::uint64_t>(keys[row]), 2});
      for (std::size_t column = 0; column < kColumns; column += 64) {
        const std::uint64_t bits = random.next();
        for (std::size_t i = 0; i < 64; ++i) {
          const std::size_t at = row * kColumns + column + i;
          ASSERT_EQ(out.at(at), (bits >> i & 1U) != 0 ? 2 * values.at(at) : 0) << at;
        }
      }
    }
  }
  const int before = cuda_on_cpu::launches();
  dropout(nullptr, Element::kBf16, 0, kColumns, nullptr, 2, nullptr, nullptr);
  EXPECT_EQ(cuda_on_cpu::launches(), before);
}

}  // namespace
}  // namespace quadrat::gpu
