#include "quadrat/train/schedule.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numbers>

#include "quadrat/base/error.h"
#include "quadrat/base/text.h"

namespace quadrat {

LearningRateSchedule::LearningRateSchedule(const std::string& kind, double base,
                                           double warmup_epochs, std::int64_t epochs,
                                           std::int64_t steps_per_epoch)
    : base_(base),
      warmup_steps_(warmup_epochs * static_cast<double>(steps_per_epoch)),
      total_steps_(static_cast<double>(epochs * steps_per_epoch)) {
  if (kind == "constant") {
    kind_ = Kind::kConstant;
  } else if (kind == "step") {
    kind_ = Kind::kStep;
  } else if (kind == "cosine") {
    kind_ = Kind::kCosine;
  } else {
    throw UsageError(fmt::format("--lr_schedule is '{}', but must be constant, step or cosine",
                                 printable(kind)));
  }
}

double LearningRateSchedule::at(std::int64_t step) const {
  const auto now = static_cast<double>(step);
  if (now < warmup_steps_) return base_ * (now + 1) / warmup_steps_;
  const double progress = (now - warmup_steps_) / std::max(1.0, total_steps_ - warmup_steps_);
  switch (kind_) {
    case Kind::kConstant:
      return base_;
    case Kind::kStep:
      return base_ * std::pow(0.1, std::floor(3 * progress));
    case Kind::kCosine:
      return base_ * 0.5 * (1 + std::cos(std::numbers::pi * progress));
  }
  return base_;
}

}  // namespace quadrat
