#include "quadrat/model/input_blocks.h"

#include <gtest/gtest.h>

#include "quadrat/model/network.h"

namespace quadrat {
namespace {

class InputBlocksOf : public testing::TestWithParam<Architecture> {};

INSTANTIATE_TEST_SUITE_P(Architectures, InputBlocksOf,
                         testing::Values(Architecture::kAlexNet, Architecture::kResNet18),
                         [](const auto& param) {
                           return param.param == Architecture::kAlexNet ? "AlexNet" : "ResNet18";
                         });

/// Logits, and the gradient of the first convolution's weights.
std::pair<torch::Tensor, torch::Tensor> outcome(Network& network, const torch::Tensor& tiles) {
  network.zero_grad();
  const auto logits = network.forward(tiles);
  logits.pow(2).sum().backward();
  return {logits.detach(), network.parameters().front().grad().clone()};
}

/// The order that gpu::augment writes in, too.
TEST_P(InputBlocksOf, hold_pixels_row_by_row_then_zeros) {
  constexpr std::int64_t kSide = 32;
  const InputBlocks blocks = Network::create(GetParam(), 6, 3)->input_blocks(kSide);
  torch::manual_seed(1);
  const auto tiles = torch::randn({1, 3, kSide, kSide});
  const auto found = to_blocks(tiles, blocks);
  const std::int64_t block = blocks.block_px, before = blocks.before_px;
  for (std::int64_t row = 0; row < blocks.side; ++row) {
    for (std::int64_t column = 0; column < blocks.side; ++column) {
      for (std::int64_t channel = 0; channel < blocks.channels; ++channel) {
        const std::int64_t pixel = channel / 3;
        const std::int64_t y = row * block + pixel / block - before;
        const std::int64_t x = column * block + pixel % block - before;
        const bool is_inside = pixel < block * block && y >= 0 && y < kSide && x >= 0 && x < kSide;
        const float wanted = is_inside ? tiles[0][channel % 3][y][x].item<float>() : 0.0F;
        ASSERT_EQ(found[0][channel][row][column].item<float>(), wanted)
            << channel << " of " << row << ", " << column;
      }
    }
  }
}

TEST_P(InputBlocksOf, make_the_same_sums) {
  const auto network = Network::create(GetParam(), 6, 3);
  network->to(torch::kDouble);
  network->set_retraining(Retraining::kAll);
  network->eval();
  // 224 px is the tiles' side; 160 px leaves other columns beyond the edge.
  for (const std::int64_t side_px : {224, 160}) {
    torch::manual_seed(1);
    const auto tiles = torch::randn({2, 3, side_px, side_px}, torch::kDouble);
    const InputBlocks blocks = network->input_blocks(static_cast<std::uint32_t>(side_px));
    const auto blocked = to_blocks(tiles, blocks);
    EXPECT_EQ(blocked.size(1), blocks.channels);
    EXPECT_EQ(blocked.size(2), blocks.side);
    const auto [logits, gradient] = outcome(*network, tiles);
    const auto [logits_of_blocks, gradient_of_blocks] = outcome(*network, blocked);
    EXPECT_TRUE(torch::allclose(logits_of_blocks, logits, 1e-10, 1e-12));
    EXPECT_TRUE(torch::allclose(gradient_of_blocks, gradient, 1e-9, 1e-11));
  }
}

}  // namespace
}  // namespace quadrat
