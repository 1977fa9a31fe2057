#pragma once

#include <cstdint>
#include <string>

#include "quadrat/base/files.h"
#include "quadrat/record/run_record.h"

namespace quadrat::fit {

/// What quadrat-fit is asked to do; the members are named as the options are, and mean what --help
/// says.
struct FitOptions {
  Path train;
  Path validation;
  double sample_frac = 1.0;
  Path features;  ///< file that keeps them; empty: they are not kept

  std::string pretrained_model_type;
  std::string pretrained_weights = "none";

  std::string classifier;           ///< logistic_regression or random_forest
  std::string mmlspark_model_type;  ///< the sample's spelling of it
  double l2 = 0.01;
  std::int64_t max_iterations = 1000;
  std::int64_t trees = 20;
  std::int64_t depth = 5;

  std::string output_model_name;
  Path runs = "runs";
  std::string resume = "auto";
  std::int64_t seed = 0;
  std::string precision = "auto";
  double watchdog_seconds = 60;  ///< a rank silent for so long ends the job; 0: never

  /// Settles `classifier`, whichever way it was spelled.
  /// @throws UsageError for anything that can be seen to be wrong without touching a file
  void validate();
};

}  // namespace quadrat::fit
