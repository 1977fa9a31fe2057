#include "quadrat/fit/lbfgs.h"

#include <algorithm>
#include <cmath>
#include <deque>
#include <limits>
#include <numeric>

#include "quadrat/base/error.h"

namespace quadrat::fit {

namespace {

constexpr std::size_t kRemembered = 10;
constexpr double kEnoughDescent =
    1e-4;  // Nocedal and Wright, Numerical Optimization, 2006, section 3.1
constexpr double kShorter = 0.5;

double dot(const std::vector<double>& a, const std::vector<double>& b) {
  return std::inner_product(a.begin(), a.end(), b.begin(), 0.0);
}

void add(std::vector<double>& to, double factor, const std::vector<double>& what) {
  for (std::size_t i = 0; i < to.size(); ++i) to[i] += factor * what[i];
}

double largest(const std::vector<double>& values) {
  double most = 0;
  for (const double value : values) most = std::max(most, std::abs(value));
  return most;
}

/// A step taken, and how the gradient changed with it.
struct Pair {
  std::vector<double> step, change;
  double product;  ///< of the two
};

/// Minus the inverse curvature times the gradient: the two-loop recursion (Nocedal and Wright,
/// algorithm 7.4).
std::vector<double> direction(const std::deque<Pair>& pairs, const std::vector<double>& gradient) {
  std::vector<double> q = gradient;
  std::vector<double> alpha(pairs.size());
  for (std::size_t i = pairs.size(); i-- > 0;) {
    alpha[i] = dot(pairs[i].step, q) / pairs[i].product;
    add(q, -alpha[i], pairs[i].change);
  }
  const double scale = pairs.empty()
                           ? 1 / std::max(1.0, std::sqrt(dot(q, q)))
                           : pairs.back().product / dot(pairs.back().change, pairs.back().change);
  for (double& value : q) value *= scale;
  for (std::size_t i = 0; i < pairs.size(); ++i) {
    add(q, alpha[i] - dot(pairs[i].change, q) / pairs[i].product, pairs[i].step);
  }
  for (double& value : q) value = -value;
  return q;
}

}  // namespace

Minimum minimise(const Objective& objective, std::vector<double> start, std::int64_t max_iterations,
                 double tolerance) {
  Minimum at;
  at.x = std::move(start);
  std::vector<double> gradient(at.x.size());
  at.value = objective(at.x, gradient);
  at.gradient = largest(gradient);
  if (!std::isfinite(at.value) || !std::isfinite(dot(gradient, gradient))) {
    throw InputError("fit a classifier", "", "features or labels are no finite numbers",
                     "look at --pretrained_weights: do they hold infinities?");
  }
  std::deque<Pair> pairs;
  std::vector<double> next(at.x.size());
  std::vector<double> next_gradient(at.x.size());
  while (!(at.has_converged = at.gradient <= tolerance) && at.iterations < max_iterations) {
    const std::vector<double> along = direction(pairs, gradient);
    const double slope = dot(gradient, along);
    double length = 1;
    double value = 0;
    // Near the minimum a descent can be smaller than the value's rounding.
    const double rounding = 4 * std::numeric_limits<double>::epsilon() * std::abs(at.value);
    while (true) {
      next = at.x;
      add(next, length, along);
      value = objective(next, next_gradient);
      if (value <= at.value + kEnoughDescent * length * slope + rounding) break;
      length *= kShorter;
      if (-length * slope < rounding) {
        at.has_converged = true;
        return at;
      }
    }
    Pair pair{std::vector<double>(at.x.size()), next_gradient, 0};
    for (std::size_t i = 0; i < next.size(); ++i) pair.step[i] = next[i] - at.x[i];
    add(pair.change, -1, gradient);
    pair.product = dot(pair.step, pair.change);
    // Without curvature along the step there is nothing to be learnt from it.
    if (pair.product > std::numeric_limits<double>::epsilon() * dot(pair.change, pair.change)) {
      pairs.push_back(std::move(pair));
      if (pairs.size() > kRemembered) pairs.pop_front();
    }
    at.x.swap(next);
    gradient.swap(next_gradient);
    at.value = value;
    at.gradient = largest(gradient);
    ++at.iterations;
  }
  return at;
}

}  // namespace quadrat::fit
