// The GPU's augmentation, a block's threads run one after the other on the CPU, against
// TileTransform.
#include "quadrat/gpu/augment_block.h"

#include <gtest/gtest.h>

#include <cmath>
#include <optional>
#include <random>
#include <vector>

#include "quadrat/tiles/augment.h"

namespace quadrat {
namespace {

constexpr std::uint64_t kSeed = 5;

std::vector<std::uint8_t> random_tile(std::uint32_t side) {
  std::mt19937 random(side);
  std::vector<std::uint8_t> rgb(std::size_t{3} * side * side);
  for (auto& byte : rgb) byte = static_cast<std::uint8_t>(random() >> 24);
  return rgb;
}

TileTransform transform_of(std::uint32_t side, Augment augment) {
  return {side, {0.485F, 0.456F, 0.406F}, {0.229F, 0.224F, 0.225F}, augment, kSeed};
}

/// As the kernels do it, barrier by barrier.
template <typename T>
std::vector<T> block(const TileTransform& transform, const gpu::Sample& sample,
                     std::uint32_t threads, std::optional<InputBlocks> blocks = {}) {
  gpu::Format format =
      gpu::format_of(transform, blocks.value_or(InputBlocks::plain(transform.side_px())),
                     transform.lookup().data());
  format.crops = sample.draw.crops;
  std::vector<gpu::AugmentThread> all;
  for (std::uint32_t thread = 0; thread < threads; ++thread)
    all.emplace_back(sample, format, format.lookup, thread, threads);
  const std::size_t positions = std::size_t{format.blocks.side} * format.blocks.side;
  struct alignas(16) Chunk {
    T values[16 / sizeof(T)];
  };
  std::vector<Chunk> aligned(positions * format.blocks.channels * sizeof(T) / sizeof(Chunk) + 1);
  T* out = aligned.front().values;
  if (sample.draw.crops) {
    std::vector<double> sums;
    for (const auto& thread : all) sums.push_back(thread.grey());
    for (std::uint32_t half = threads / 2; half > 0; half /= 2) {
      for (std::uint32_t thread = 0; thread < threads; ++thread)
        gpu::add_pairwise(sums.data(), thread, half);
    }
    const auto mean_grey = static_cast<float>(
        sums[0] / (static_cast<double>(format.side_px) * static_cast<double>(format.side_px)));
    for (const auto& thread : all) thread.write_crop(mean_grey, out);
  } else {
    for (std::uint32_t index = 0; index < gpu::Strip::count(format); ++index) {
      // Nothing of it is zero, and it is no longer than the kernel's.
      std::vector<std::uint32_t> shared(gpu::Strip::shared_words(format), 0xA5A5A5A5U);
      const gpu::Strip strip = gpu::Strip::of(format, index);
      for (const auto& thread : all) thread.load(strip, shared.data());
      for (const auto& thread : all) thread.write(strip, shared.data(), out);
    }
  }
  return {out, out + positions * format.blocks.channels};
}

float widened(gpu::Bf16 value) {
  const std::uint32_t bits = static_cast<std::uint32_t>(value.bits) << 16;
  float wide = 0;
  std::memcpy(&wide, &bits, sizeof wide);
  return wide;
}

class AugmentBlock : public testing::TestWithParam<std::uint32_t> {};

// 224 is the tiles' own side; those of 7 pixels are no whole number of a thread's groups.
INSTANTIATE_TEST_SUITE_P(Sides_px, AugmentBlock, testing::Values(7U, 16U, 224U));

TEST_P(AugmentBlock, gives_the_cpus_bits_under_every_symmetry) {
  const auto rgb = random_tile(GetParam());
  const TileTransform transform = transform_of(GetParam(), Augment::kDihedral);
  for (std::uint32_t symmetry = 0; symmetry < 8; ++symmetry) {
    AugmentDraw draw;
    draw.symmetry = symmetry;
    std::vector<float> expected(transform.values_per_tile());
    transform.apply(draw, rgb.data(), expected.data());
    EXPECT_EQ(block<float>(transform, {rgb.data(), draw}, 64), expected) << symmetry;
  }
}

TEST_P(AugmentBlock, crops_and_jitters_as_the_cpu_does) {
  const auto rgb = random_tile(GetParam());
  const TileTransform transform = transform_of(GetParam(), Augment::kSample);
  for (std::uint64_t sample = 0; sample < 10; ++sample) {
    const gpu::Sample given{rgb.data(), transform.draw(3, sample)};
    ASSERT_TRUE(given.draw.crops);
    std::vector<float> expected(transform.values_per_tile());
    transform.train(rgb.data(), 3, sample, expected.data());
    const auto found = block<float>(transform, given, 256);
    for (std::size_t i = 0; i < expected.size(); ++i) {
      // Only the mean grey, up to 255 * 1.2, is summed in another order: in float32 over at most
      // 224 pixels at a time. An error of it reaches a value times 0.2 / 255 / std.
      ASSERT_NEAR(found[i], expected[i], 224 * 306 * 0x1p-24 * 0.2 / 255 / 0.224) << i;
    }
  }
}

/// The pixels of [side, side, 3] as a convolution's blocks.
template <typename T>
std::vector<T> blocked(const std::vector<T>& pixels, std::uint32_t side_px,
                       const InputBlocks& blocks) {
  std::vector<T> out;
  for (std::uint32_t row = 0; row < blocks.side; ++row) {
    for (std::uint32_t column = 0; column < blocks.side; ++column) {
      std::uint32_t channels = 0;
      for (std::uint32_t k = 0; k < blocks.block_px * blocks.block_px; ++k) {
        const std::int64_t y =
            row * blocks.block_px + k / blocks.block_px - std::int64_t{blocks.before_px};
        const std::int64_t x =
            column * blocks.block_px + k % blocks.block_px - std::int64_t{blocks.before_px};
        for (std::int64_t c = 0; c < 3; ++c, ++channels) {
          const bool inside = y >= 0 && y < side_px && x >= 0 && x < side_px;
          out.push_back(inside ? pixels[static_cast<std::size_t>((y * side_px + x) * 3 + c)] : T{});
        }
      }
      for (; channels < blocks.channels; ++channels) out.push_back(T{});
    }
  }
  return out;
}

TEST_P(AugmentBlock, lays_out_what_a_convolution_wants) {
  const auto rgb = random_tile(GetParam());
  const InputBlocks resnet18 = InputBlocks::for_convolution(GetParam(), 7, 2, 3);
  EXPECT_EQ(resnet18.channels, 16U);
  std::vector<InputBlocks> all{resnet18};
  if (GetParam() > 7) all.push_back(InputBlocks::for_convolution(GetParam(), 11, 4, 2));
  for (const InputBlocks& blocks : all) {
    const TileTransform transform = transform_of(GetParam(), Augment::kDihedral);
    for (std::uint32_t symmetry = 0; symmetry < 8; ++symmetry) {
      gpu::Sample sample{rgb.data(), {}};
      sample.draw.symmetry = symmetry;
      EXPECT_EQ(block<float>(transform, sample, 64, blocks),
                blocked(block<float>(transform, sample, 64), GetParam(), blocks))
          << symmetry;
    }
    const TileTransform crop = transform_of(GetParam(), Augment::kSample);
    const gpu::Sample sample{rgb.data(), crop.draw(3, 1)};
    EXPECT_EQ(block<float>(crop, sample, 64, blocks),
              blocked(block<float>(crop, sample, 64), GetParam(), blocks));
  }
}

TEST_P(AugmentBlock, rounds_to_bf16_to_nearest) {
  const auto rgb = random_tile(GetParam());
  for (const Augment augment : {Augment::kDihedral, Augment::kSample}) {
    const TileTransform transform = transform_of(GetParam(), augment);
    const gpu::Sample given{rgb.data(), transform.draw(1, 2)};
    const auto wide = block<float>(transform, given, 128);
    const auto narrow = block<gpu::Bf16>(transform, given, 128);
    for (std::size_t i = 0; i < wide.size(); ++i)
      ASSERT_LE(std::abs(widened(narrow[i]) - wide[i]), std::abs(wide[i]) * 0x1p-8F) << i;
  }
  EXPECT_EQ(gpu::rounded_to<gpu::Bf16>(1.0F).bits, 0x3F80);
  EXPECT_EQ(gpu::rounded_to<gpu::Bf16>(1.0F + 0x1p-8F).bits, 0x3F80);             // a tie, to even
  EXPECT_EQ(gpu::rounded_to<gpu::Bf16>(1.0F + 0x1p-8F + 0x1p-20F).bits, 0x3F81);  // above it
  EXPECT_EQ(gpu::rounded_to<gpu::Bf16>(1.0F + 3 * 0x1p-8F).bits, 0x3F82);         // a tie, to even
}

TEST(AugmentDraw, is_a_function_of_seed_epoch_and_sample) {
  const TileTransform transform = transform_of(16, Augment::kSample);
  EXPECT_EQ(transform.draw(1, 2).left_px, transform.draw(1, 2).left_px);
  EXPECT_NE(transform.draw(1, 2).left_px, transform.draw(2, 2).left_px);
  EXPECT_NE(transform.draw(1, 2).left_px, transform.draw(1, 3).left_px);
  EXPECT_FALSE(transform_of(16, Augment::kNone).draw(1, 2).crops);
}

}  // namespace
}  // namespace quadrat
