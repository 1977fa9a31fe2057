#include "quadrat/fit/lbfgs.h"

#include <gtest/gtest.h>

#include <cmath>

#include "quadrat/base/error.h"

namespace quadrat::fit {
namespace {

double target(std::size_t i) { return 0.2 * static_cast<double>(i); }

/// Convex, far from quadratic, and with curvatures of 1 to 10^4.
double stretched(const std::vector<double>& x, std::vector<double>& gradient) {
  double value = 0;
  for (std::size_t i = 0; i < x.size(); ++i) {
    const double weight =
        std::pow(10.0, 4.0 * static_cast<double>(i) / static_cast<double>(x.size() - 1));
    const double off = x[i] - target(i);
    value += weight * 2 * std::sinh(off / 2) *
             std::sinh(off / 2);  // cosh(off) - 1 without its cancellation
    gradient[i] = weight * std::sinh(off);
  }
  return value;
}

TEST(Lbfgs, finds_the_minimum_of_a_badly_scaled_function) {
  const Minimum minimum = minimise(stretched, std::vector<double>(20), 1000, 1e-8);
  EXPECT_TRUE(minimum.has_converged);
  EXPECT_LE(minimum.gradient, 1e-8);
  for (std::size_t i = 0; i < 20; ++i) EXPECT_NEAR(minimum.x[i], target(i), 1e-7);
  // SciPy's L-BFGS-B takes 537 with as many remembered steps; steepest descent tens of thousands.
  EXPECT_LT(minimum.iterations, 700);
}

TEST(Lbfgs, stops_where_it_is_told_to_and_says_so) {
  const Minimum minimum = minimise(stretched, std::vector<double>(20), 3, 1e-8);
  EXPECT_FALSE(minimum.has_converged);
  EXPECT_EQ(minimum.iterations, 3);
  std::vector<double> gradient(20);
  EXPECT_EQ(minimum.value, stretched(minimum.x, gradient));
}

TEST(Lbfgs, takes_no_number_that_is_none_for_a_minimum) {
  const Objective broken = [](const std::vector<double>& x, std::vector<double>& gradient) {
    gradient[0] = std::nan("");
    return x[0];
  };
  EXPECT_THROW(minimise(broken, {1}, 10, 1e-4), InputError);
}

TEST(Lbfgs, ends_where_rounding_hides_any_descent) {
  const Objective offset = [](const std::vector<double>& x, std::vector<double>& gradient) {
    gradient[0] = 2 * x[0];
    return 1e12 + x[0] * x[0];
  };
  const Minimum minimum = minimise(offset, {1}, 1000000, 0);
  EXPECT_TRUE(minimum.has_converged);
  EXPECT_LT(std::abs(minimum.x[0]), 1e-1);
}

}  // namespace
}  // namespace quadrat::fit
