#include "quadrat/fit/options.h"

#include <fmt/format.h>

#include "quadrat/base/error.h"
#include "quadrat/base/text.h"

namespace quadrat::fit {

namespace {

void require(bool right, const std::string& sentence) {
  if (!right) throw UsageError(sentence);
}

}  // namespace

void FitOptions::validate() {
  if (!mmlspark_model_type.empty()) {
    const std::string meant =
        mmlspark_model_type == "randomforest" ? "random_forest" : "logistic_regression";
    require(classifier.empty() || classifier == meant,
            fmt::format("--classifier is {}, but --mmlspark_model_type is {}; give one of them",
                        classifier, mmlspark_model_type));
    classifier = meant;
  }
  require(!classifier.empty(),
          "--classifier is missing; give logistic_regression or random_forest");
  require_plain_name("--output_model_name", output_model_name);
  require(sample_frac > 0 && sample_frac <= 1,
          fmt::format("--sample_frac is {}, but must be above 0 and at most 1", sample_frac));
  require(l2 >= 0 && l2 <= 1e9, fmt::format("--l2 is {}, but must be at least 0", l2));
  require(max_iterations >= 1,
          fmt::format("--max_iterations is {}, but must be at least 1", max_iterations));
  constexpr std::int64_t kMostTrees = 100000;
  require(trees >= 1 && trees <= kMostTrees,
          fmt::format("--trees is {}, but must be from 1 to {}", trees, kMostTrees));
  constexpr std::int64_t kDeepest = 25;  // OpenCV's own limit
  require(depth >= 1 && depth <= kDeepest,
          fmt::format("--depth is {}, but must be from 1 to {}", depth, kDeepest));
  require(watchdog_seconds >= 0,
          fmt::format("--watchdog_seconds is {}, but must be at least 0", watchdog_seconds));
  require(seed >= 0, fmt::format("--seed is {}, but must be at least 0", seed));
}

}  // namespace quadrat::fit
