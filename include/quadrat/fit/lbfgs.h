#pragma once

#include <cstdint>
#include <functional>
#include <vector>

namespace quadrat::fit {

struct Minimum {
  std::vector<double> x;
  double value = 0;
  double gradient = 0;  ///< largest absolute component there
  std::int64_t iterations = 0;
  bool has_converged = false;
};

/// Fills the gradient, which has x's size. @return the function's value
using Objective =
    std::function<double(const std::vector<double>& x, std::vector<double>& gradient)>;

/// Minimises a smooth convex function by L-BFGS (Nocedal, 1980: the last 10 steps stand for the
/// curvature) with backtracking until Armijo's condition holds. Deterministic: ranks that are given
/// the same values take the same steps.
/// @throws InputError where the function or its gradient is no finite number at the start
/// @param tolerance it has converged where no component of the gradient is larger, or where
/// rounding hides any descent
Minimum minimise(const Objective& objective, std::vector<double> start, std::int64_t max_iterations,
                 double tolerance);

}  // namespace quadrat::fit
