#include <cassert>
#include <numeric>

#include "quadrat/record/run_record.h"

namespace quadrat {

namespace {

double ratio(std::int64_t part, std::int64_t whole) {
  return whole == 0 ? 0.0 : static_cast<double>(part) / static_cast<double>(whole);
}

}  // namespace

std::vector<std::int64_t> confusion_matrix(const std::vector<std::uint16_t>& labels,
                                           const std::vector<std::uint16_t>& predicted,
                                           std::size_t classes) {
  assert(labels.size() == predicted.size());
  std::vector<std::int64_t> counts(classes * classes);
  for (std::size_t i = 0; i < labels.size(); ++i) {
    assert(labels[i] < classes && predicted[i] < classes);
    ++counts[labels[i] * classes + predicted[i]];
  }
  return counts;
}

std::vector<ClassMetrics> class_metrics(const std::vector<std::int64_t>& confusion,
                                        const std::vector<std::string>& classes) {
  const std::size_t size = classes.size();
  assert(confusion.size() == size * size);
  std::vector<ClassMetrics> metrics;
  for (std::size_t c = 0; c < size; ++c) {
    std::int64_t support = 0;
    std::int64_t predicted = 0;
    for (std::size_t other = 0; other < size; ++other) {
      support += confusion[c * size + other];
      predicted += confusion[other * size + c];
    }
    const std::int64_t correct = confusion[c * size + c];
    // 2PR / (P + R), with the division by zero taken out.
    metrics.push_back({classes[c], support, ratio(correct, predicted), ratio(correct, support),
                       ratio(2 * correct, support + predicted)});
  }
  return metrics;
}

double error_of(const std::vector<std::int64_t>& confusion, std::size_t classes) {
  assert(confusion.size() == classes * classes);
  std::int64_t correct = 0;
  for (std::size_t c = 0; c < classes; ++c) correct += confusion[c * classes + c];
  const std::int64_t all = std::accumulate(confusion.begin(), confusion.end(), std::int64_t{0});
  return all == 0 ? 0.0 : 1.0 - ratio(correct, all);
}

}  // namespace quadrat
