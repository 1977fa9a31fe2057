#pragma once

#include <cstdint>
#include <string>

namespace quadrat {

/// The learning rate of every step: a linear warm-up from 0, then constant, by steps (a tenth after
/// each third of the training), or half a cosine down to 0 (Loshchilov and Hutter, 2016).
class LearningRateSchedule {
 public:
  /// @param kind constant, step or cosine @throws UsageError for another
  LearningRateSchedule(const std::string& kind, double base, double warmup_epochs,
                       std::int64_t epochs, std::int64_t steps_per_epoch);

  /// @param step counted over all epochs, from 0
  double at(std::int64_t step) const;

 private:
  enum class Kind { kConstant, kStep, kCosine };
  Kind kind_;
  double base_;
  double warmup_steps_;
  double total_steps_;
};

}  // namespace quadrat
