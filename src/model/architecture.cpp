#include "quadrat/model/architecture.h"

#include <fmt/format.h>

#include "quadrat/base/error.h"
#include "quadrat/base/text.h"

namespace quadrat {

Architecture parse_architecture(std::string_view name) {
  for (const Architecture architecture : {Architecture::kAlexNet, Architecture::kResNet18}) {
    if (to_string(architecture) == name) return architecture;
  }
  throw UsageError(fmt::format("--pretrained_model_type is '{}', but must be alexnet or resnet18",
                               printable(name)));
}

Retraining parse_retraining(std::string_view name) {
  for (const Retraining retraining :
       {Retraining::kLastOnly, Retraining::kFullyConnected, Retraining::kAll}) {
    if (to_string(retraining) == name) return retraining;
  }
  throw UsageError(fmt::format(
      "--retraining_type is '{}', but must be last_only, fully_connected or all", printable(name)));
}

std::string_view to_string(Architecture architecture) {
  return architecture == Architecture::kAlexNet ? "alexnet" : "resnet18";
}

std::string_view to_string(Retraining retraining) {
  switch (retraining) {
    case Retraining::kLastOnly:
      return "last_only";
    case Retraining::kFullyConnected:
      return "fully_connected";
    case Retraining::kAll:
      return "all";
  }
  return "?";
}

}  // namespace quadrat
