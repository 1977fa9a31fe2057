#include "quadrat/model/forest.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cassert>
#include <cmath>
#include <cstring>
#include <type_traits>

#include "quadrat/base/error.h"

namespace quadrat {

namespace {

constexpr double kSmallestProbability = 1e-15;

template <typename T>
void add_tensor(WeightsFile& weights, const char* name, std::vector<std::int64_t> shape,
                const std::vector<T>& values) {
  StoredTensor tensor;
  tensor.name = name;
  tensor.dtype = std::is_same_v<T, float> ? DType::kF32 : DType::kI32;
  tensor.shape = std::move(shape);
  tensor.data.resize(values.size() * sizeof(T));
  if (!values.empty()) std::memcpy(tensor.data.data(), values.data(), tensor.data.size());
  weights.tensors.push_back(std::move(tensor));
}

/// @param shape -1 where any size will do
template <typename T>
std::vector<T> take_tensor(const WeightsFile& weights, const char* name,
                           const std::vector<std::int64_t>& shape, const Path& path) {
  const StoredTensor* found = weights.find(name);
  if (found == nullptr) {
    throw InputError("use model", path.native(), fmt::format("it has no tensor '{}'", name),
                     "name a model that quadrat-fit wrote");
  }
  const DType wanted = std::is_same_v<T, float> ? DType::kF32 : DType::kI32;
  const bool fits =
      found->shape.size() == shape.size() &&
      std::equal(shape.begin(), shape.end(), found->shape.begin(),
                 [](std::int64_t want, std::int64_t is) { return want < 0 || want == is; });
  if (found->dtype != wanted || !fits) {
    throw InputError("use model", path.native(),
                     fmt::format("tensor '{}' is {} [{}], but {} [{}] is expected", name,
                                 to_string(found->dtype), fmt::join(found->shape, ", "),
                                 to_string(wanted), fmt::join(shape, ", ")));
  }
  std::vector<T> values(static_cast<std::size_t>(found->elements()));
  if (!values.empty()) std::memcpy(values.data(), found->data.data(), values.size() * sizeof(T));
  return values;
}

}  // namespace

std::int32_t Forest::leaf_of(std::int32_t root, const float* values) const {
  auto node = static_cast<std::size_t>(root);
  while (feature[node] >= 0) {
    node = static_cast<std::size_t>(values[feature[node]] <= threshold[node] ? left[node]
                                                                             : right[node]);
  }
  return static_cast<std::int32_t>(node);
}

void Forest::log_probabilities(const float* values, std::int64_t rows, float* out) const {
  const auto columns = static_cast<std::size_t>(classes);
  std::vector<double> sums(columns);
  for (std::int64_t row = 0; row < rows; ++row, values += features, out += classes) {
    std::fill(sums.begin(), sums.end(), 0.0);
    for (const std::int32_t root : roots) {
      const float* leaf =
          fractions.data() + static_cast<std::size_t>(leaf_of(root, values)) * columns;
      for (std::size_t c = 0; c < columns; ++c) sums[c] += leaf[c];
    }
    for (std::size_t c = 0; c < columns; ++c) {
      out[c] = static_cast<float>(
          std::log(std::max(kSmallestProbability, sums[c] / static_cast<double>(roots.size()))));
    }
  }
}

void Forest::append(const Forest& other) {
  assert(other.features == features && other.classes == classes);
  const auto base = static_cast<std::int32_t>(feature.size());
  for (const std::int32_t root : other.roots) roots.push_back(root + base);
  for (std::size_t i = 0; i < other.feature.size(); ++i) {
    const bool is_leaf = other.feature[i] < 0;
    left.push_back(is_leaf ? -1 : other.left[i] + base);
    right.push_back(is_leaf ? -1 : other.right[i] + base);
  }
  feature.insert(feature.end(), other.feature.begin(), other.feature.end());
  threshold.insert(threshold.end(), other.threshold.begin(), other.threshold.end());
  fractions.insert(fractions.end(), other.fractions.begin(), other.fractions.end());
}

void Forest::add_to(WeightsFile& weights) const {
  const auto nodes = std::ssize(feature);
  add_tensor(weights, "forest.roots", {std::ssize(roots)}, roots);
  add_tensor(weights, "forest.feature", {nodes}, feature);
  add_tensor(weights, "forest.left", {nodes}, left);
  add_tensor(weights, "forest.right", {nodes}, right);
  add_tensor(weights, "forest.threshold", {nodes}, threshold);
  add_tensor(weights, "forest.fractions", {nodes, classes}, fractions);
}

Forest Forest::from_weights(const WeightsFile& weights, std::int32_t features, std::int32_t classes,
                            const Path& path) {
  const auto refuse = [&](const std::string& finding) {
    throw InputError("use model", path.native(), finding, "name a model that quadrat-fit wrote");
  };
  Forest forest;
  forest.features = features;
  forest.classes = classes;
  forest.roots = take_tensor<std::int32_t>(weights, "forest.roots", {-1}, path);
  forest.feature = take_tensor<std::int32_t>(weights, "forest.feature", {-1}, path);
  const auto nodes = std::ssize(forest.feature);
  forest.left = take_tensor<std::int32_t>(weights, "forest.left", {nodes}, path);
  forest.right = take_tensor<std::int32_t>(weights, "forest.right", {nodes}, path);
  forest.threshold = take_tensor<float>(weights, "forest.threshold", {nodes}, path);
  forest.fractions = take_tensor<float>(weights, "forest.fractions", {nodes, classes}, path);
  if (forest.roots.empty()) refuse("its forest has no tree");
  for (const std::int32_t root : forest.roots) {
    if (root < 0 || root >= nodes)
      refuse(fmt::format("its forest has {} nodes, but a root is {}", nodes, root));
  }
  for (std::int64_t i = 0; i < nodes; ++i) {
    const auto node = static_cast<std::size_t>(i);
    if (forest.feature[node] < 0) {
      double sum = 0;
      bool right = true;
      for (std::size_t c = 0; c < static_cast<std::size_t>(classes); ++c) {
        const float share = forest.fractions[node * static_cast<std::size_t>(classes) + c];
        right = right && share >= 0;
        sum += share;
      }
      constexpr double kRounding = 1e-3;
      if (!right || !(std::abs(sum - 1) < kRounding))
        refuse(fmt::format("the fractions of its forest's leaf {} are none", i));
      continue;
    }
    // Children after their parents: every walk ends.
    const auto leads_on = [&](std::int32_t child) { return child > i && child < nodes; };
    if (forest.feature[node] >= features || !leads_on(forest.left[node]) ||
        !leads_on(forest.right[node])) {
      refuse(fmt::format(
          "its forest's node {} leads nowhere, or asks for a feature that is not there", i));
    }
  }
  return forest;
}

}  // namespace quadrat
