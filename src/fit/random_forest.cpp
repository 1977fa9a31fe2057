#include "quadrat/fit/random_forest.h"

#include <algorithm>
#include <cmath>
#include <opencv2/core.hpp>
#include <opencv2/ml.hpp>
#include <vector>

#include "quadrat/base/random.h"
#include "quadrat/base/signals.h"

namespace quadrat::fit {

namespace {

/// OpenCV's nodes, parents before children.
Forest tree_of(const cv::ml::RTrees& trained, std::int32_t features, std::int32_t classes) {
  Forest tree;
  tree.features = features;
  tree.classes = classes;
  tree.roots = {0};
  const auto& nodes = trained.getNodes();
  const auto& splits = trained.getSplits();
  std::vector<int> from{trained.getRoots().at(0)};
  for (std::size_t i = 0; i < from.size(); ++i) {
    const cv::ml::DTrees::Node& node = nodes.at(static_cast<std::size_t>(from[i]));
    const bool is_leaf = node.split < 0;
    tree.feature.push_back(is_leaf ? -1 : splits.at(static_cast<std::size_t>(node.split)).varIdx);
    tree.threshold.push_back(is_leaf ? 0 : splits.at(static_cast<std::size_t>(node.split)).c);
    const auto child = static_cast<std::int32_t>(from.size());
    tree.left.push_back(is_leaf ? -1 : child);
    tree.right.push_back(is_leaf ? -1 : child + 1);
    if (is_leaf) continue;
    from.push_back(node.left);
    from.push_back(node.right);
  }
  return tree;
}

/// The leaves' shares of each class.
void count_leaves(Forest& tree, std::span<const float> values,
                  std::span<const std::int32_t> labels) {
  const auto columns = static_cast<std::size_t>(tree.classes);
  tree.fractions.assign(tree.feature.size() * columns, 0.0F);
  for (std::size_t row = 0; row < labels.size(); ++row) {
    const auto leaf = static_cast<std::size_t>(
        tree.leaf_of(0, values.data() + row * static_cast<std::size_t>(tree.features)));
    ++tree.fractions[leaf * columns + static_cast<std::size_t>(labels[row])];
  }
  for (std::size_t node = 0; node < tree.feature.size(); ++node) {
    float* shares = tree.fractions.data() + node * columns;
    float sum = 0;
    for (std::size_t c = 0; c < columns; ++c) sum += shares[c];
    for (std::size_t c = 0; sum > 0 && c < columns; ++c) shares[c] /= sum;
  }
}

}  // namespace

Forest fit_random_forest(std::span<const float> values, std::span<const std::int32_t> labels,
                         std::int32_t features, std::int32_t classes, const ForestOptions& options,
                         const mpi::Communicator& ranks) {
  cv::setNumThreads(1);
  const auto rows = static_cast<int>(labels.size());
  // OpenCV only reads them.
  const cv::Mat samples(rows, features, CV_32F, const_cast<float*>(values.data()));
  const cv::Mat responses(rows, 1, CV_32S, const_cast<std::int32_t*>(labels.data()));
  const auto data = cv::ml::TrainData::create(samples, cv::ml::ROW_SAMPLE, responses);

  std::vector<Forest> mine;
  mpi::together(ranks, [&] {
    for (std::int64_t number = ranks.rank(); number < options.trees && stop_signal() == 0;
         number += ranks.size()) {
      const auto trees = cv::ml::RTrees::create();
      trees->setMaxDepth(static_cast<int>(options.depth));
      trees->setMinSampleCount(1);
      trees->setRegressionAccuracy(0);
      trees->setActiveVarCount(std::max(1, static_cast<int>(std::sqrt(features))));
      trees->setTermCriteria(cv::TermCriteria(cv::TermCriteria::MAX_ITER, 1, 0));
      cv::theRNG().state =
          KeyedRandom({options.seed, kStreamForest, static_cast<std::uint64_t>(number)}).next();
      trees->train(data);
      mine.push_back(tree_of(*trees, features, classes));
      count_leaves(mine.back(), values, labels);
    }
  });

  mpi::stop_if_asked(ranks);

  Forest forest;
  forest.features = features;
  forest.classes = classes;
  for (std::int64_t number = 0; number < options.trees; ++number) {
    const auto owner = static_cast<int>(number % ranks.size());
    Bytes bytes;
    if (owner == ranks.rank()) {
      WeightsFile tree;
      mine[static_cast<std::size_t>(number / ranks.size())].add_to(tree);
      bytes = to_safetensors(tree);
    }
    bytes = ranks.broadcast(std::move(bytes), owner);
    forest.append(
        Forest::from_weights(parse_weights(bytes), features, classes, "a tree of another rank"));
  }
  return forest;
}

}  // namespace quadrat::fit
