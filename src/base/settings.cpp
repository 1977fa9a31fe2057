#include "quadrat/base/settings.h"

#include <algorithm>

namespace quadrat {

std::string setting(const Settings& settings, std::string_view name) {
  const auto found = std::find_if(settings.begin(), settings.end(),
                                  [&](const Setting& setting) { return setting.name == name; });
  return found == settings.end() ? "" : found->value;
}

}  // namespace quadrat
