#include "quadrat/model/forest.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <functional>

#include "quadrat/base/error.h"

namespace quadrat {
namespace {

/// Two trees over two features: one splits the first at 0, the other is a leaf.
Forest small_forest() {
  Forest forest;
  forest.features = 2;
  forest.classes = 2;
  forest.roots = {0, 3};
  forest.feature = {0, -1, -1, -1};
  forest.left = {1, -1, -1, -1};
  forest.right = {2, -1, -1, -1};
  forest.threshold = {0, 0, 0, 0};
  forest.fractions = {0, 0, 1, 0, 0.25F, 0.75F, 1, 0};
  return forest;
}

WeightsFile stored(const Forest& forest) {
  WeightsFile weights;
  forest.add_to(weights);
  return weights;
}

TEST(Forest, averages_its_leaves_and_keeps_logarithms_finite) {
  const Forest forest = Forest::from_weights(stored(small_forest()), 2, 2, "f");
  const std::vector<float> tiles{0, 9, 0.1F, 9};
  std::vector<float> logs(4);
  forest.log_probabilities(tiles.data(), 2, logs.data());
  EXPECT_FLOAT_EQ(logs[0], 0);  // at the threshold: left
  EXPECT_FLOAT_EQ(logs[1], static_cast<float>(std::log(1e-15)));
  EXPECT_FLOAT_EQ(logs[2], std::log(0.625F));
  EXPECT_FLOAT_EQ(logs[3], std::log(0.375F));
}

TEST(Forest, appended_trees_say_what_they_said_alone) {
  Forest both = small_forest();
  both.append(small_forest());
  EXPECT_EQ(both.roots, (std::vector<std::int32_t>{0, 3, 4, 7}));
  const Forest read = Forest::from_weights(stored(both), 2, 2, "f");
  const std::vector<float> tile{1, 0};
  std::vector<float> one(2), two(2);
  small_forest().log_probabilities(tile.data(), 1, one.data());
  read.log_probabilities(tile.data(), 1, two.data());
  EXPECT_EQ(one, two);
}

TEST(Forest, what_is_no_forest_is_refused) {
  const auto refused = [](const std::function<void(Forest&)>& spoil, const char* why) {
    Forest forest = small_forest();
    spoil(forest);
    try {
      Forest::from_weights(stored(forest), 2, 2, "model.safetensors");
      ADD_FAILURE() << "taken: " << why;
    } catch (const InputError& error) {
      EXPECT_THAT(error.what(),
                  testing::AllOf(testing::HasSubstr("model.safetensors"), testing::HasSubstr(why)));
    }
  };
  refused([](Forest& f) { f.roots.clear(); }, "no tree");
  refused([](Forest& f) { f.roots[1] = 4; }, "a root is 4");
  refused([](Forest& f) { f.roots[1] = -1; }, "a root is -1");
  refused([](Forest& f) { f.left[0] = 0; }, "node 0 leads nowhere");  // in circles
  refused([](Forest& f) { f.right[0] = 4; }, "node 0 leads nowhere");
  refused([](Forest& f) { f.feature[0] = 2; }, "node 0");
  refused([](Forest& f) { f.fractions[2] = NAN; }, "leaf 1");
  refused([](Forest& f) { f.fractions[2] = 0.5F; }, "leaf 1");
  WeightsFile without = stored(small_forest());
  without.tensors.pop_back();
  EXPECT_THROW(Forest::from_weights(without, 2, 2, "f"), InputError);
  WeightsFile misshapen = stored(small_forest());
  for (StoredTensor& tensor : misshapen.tensors) {
    if (tensor.name != "forest.left") continue;
    tensor.shape = {3};
    tensor.data.resize(3 * sizeof(std::int32_t));
  }
  EXPECT_THROW(Forest::from_weights(misshapen, 2, 2, "f"), InputError);
}

}  // namespace
}  // namespace quadrat
