#pragma once

#include <torch/torch.h>

#include <cstdint>

#include "quadrat/mpi/communicator.h"

namespace quadrat::fit {

struct LogisticRegression {
  torch::Tensor weight;  ///< [classes, width] float64, for features as they are
  torch::Tensor bias;    ///< [classes] float64; sums to 0
  double objective = 0;  ///< mean cross-entropy in nats + penalty
  std::int64_t iterations = 0;
  bool has_converged = false;
};

/// Multinomial logistic regression with a squared penalty. Minimises, over all ranks' rows
/// together,
///   mean cross-entropy + l2 / 2 * |S w|^2,
/// where S is the diagonal of the features' standard deviations: the penalty is on the weights of
/// standardised features (as in Spark ML, which the sample used), so it does not depend on a
/// feature's scale; biases go free. A feature that never varies gets weight 0. scikit-learn's
/// LogisticRegression on standardised features with C = 1 / (rows * l2) has the same minimum.
///
/// Every rank passes its rows and gets the same result; how rows are spread over ranks changes the
/// order of sums only. Collective.
/// @throws Error of kind kInterrupted where a signal asks to stop
/// @param features [rows, width] float32 @param labels [rows] int64 @param classes over all ranks
LogisticRegression fit_logistic_regression(const torch::Tensor& features,
                                           const torch::Tensor& labels, std::int64_t classes,
                                           double l2, std::int64_t max_iterations,
                                           const mpi::Communicator& ranks);

}  // namespace quadrat::fit
