#include "quadrat/base/log.h"

#include <unistd.h>

#include <string>

namespace quadrat::log {

namespace {
std::string& origin() {
  static std::string text = "quadrat";
  return text;
}
}  // namespace

void set_origin(std::string_view program, int rank) {
  origin() = rank < 0 ? std::string(program) : fmt::format("{}[{}]", program, rank);
}

void write(std::string_view text) {
  // One write per line, so that ranks sharing a terminal do not cut into each other's lines.
  const std::string whole = fmt::format("{}: {}\n", origin(), text);
  [[maybe_unused]] const auto written = ::write(STDERR_FILENO, whole.data(), whole.size());
}

}  // namespace quadrat::log
