#pragma once

#include <cstdint>
#include <span>

#include "quadrat/model/forest.h"
#include "quadrat/mpi/communicator.h"

namespace quadrat::fit {

struct ForestOptions {
  std::int64_t trees = 20;
  std::int64_t depth = 5;  ///< splits on the way to a leaf, at most
  std::uint64_t seed = 0;
};

/// Grows a random forest (Breiman, 2001) with OpenCV's RTrees: every tree on a bootstrap sample,
/// every split the best by Gini impurity among the square root of the number of features, chosen at
/// random. Trees are dealt to ranks, each seeded by its number, so that the forest does not depend
/// on how many ranks there are.
///
/// OpenCV's leaves know only their most frequent class; here they get the shares of all training
/// tiles that end in them, which are averaged over trees as Spark ML and scikit-learn do.
///
/// Collective; every rank passes all rows and gets the whole forest.
/// @throws Error of kind kInterrupted where a signal asks to stop
/// @param values [rows, features] @param labels [rows], below classes
Forest fit_random_forest(std::span<const float> values, std::span<const std::int32_t> labels,
                         std::int32_t features, std::int32_t classes, const ForestOptions& options,
                         const mpi::Communicator& ranks);

}  // namespace quadrat::fit
