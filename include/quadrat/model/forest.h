#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "quadrat/base/files.h"
#include "quadrat/weights/weights_file.h"

namespace quadrat {

/// A random forest (Breiman, 2001) over a network's features: where a model has one, it takes the
/// last layer's place.
///
/// In model.safetensors its trees lie one after the other as tensors of their nodes: `forest.roots`
/// [trees], `forest.feature`, `forest.left`, `forest.right` [nodes] (I32; a leaf's feature is -1,
/// and it has no children), `forest.threshold` [nodes] and `forest.fractions` [nodes, classes]
/// (F32; zeros but in leaves). A tile goes left where its feature is at most the threshold. Its
/// probabilities are the mean over trees of its leaves' fractions: of the training tiles that end
/// in that leaf, the share that is of each class.
struct Forest {
  std::int32_t features = 0;  ///< how many values a tile has
  std::int32_t classes = 0;
  std::vector<std::int32_t> roots;
  std::vector<std::int32_t> feature;
  std::vector<std::int32_t> left;
  std::vector<std::int32_t> right;
  std::vector<float> threshold;
  std::vector<float> fractions;  ///< [nodes, classes]

  /// The leaf of one tree that `values` [features] ends in.
  std::int32_t leaf_of(std::int32_t root, const float* values) const;

  /// @param values [rows, features] @param out [rows, classes]: logarithms of the probabilities,
  /// none below log(1e-15), so that they serve as logits and have a finite cross-entropy
  void log_probabilities(const float* values, std::int64_t rows, float* out) const;

  /// Adds the other's trees. @pre same features and classes
  void append(const Forest& other);

  void add_to(WeightsFile& weights) const;

  /// @throws InputError naming `path`: a missing or misshapen tensor, nodes that lead nowhere or
  /// back, fractions that are none
  static Forest from_weights(const WeightsFile& weights, std::int32_t features,
                             std::int32_t classes, const Path& path);
};

}  // namespace quadrat
