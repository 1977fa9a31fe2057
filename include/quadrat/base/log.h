#pragma once

#include <fmt/format.h>

#include <string_view>
#include <utility>

namespace quadrat {

/// What every rank says goes to stderr, one line at a time: "quadrat-finetune[3]: text". Results go
/// to stdout.
namespace log {

/// Sets the name (and, under MPI, the rank; -1 for none) that lines begin with.
void set_origin(std::string_view program, int rank = -1);

void write(std::string_view text);

template <typename... Args>
void line(fmt::format_string<Args...> format, Args&&... args) {
  write(fmt::format(format, std::forward<Args>(args)...));
}

template <typename... Args>
void warn(fmt::format_string<Args...> format, Args&&... args) {
  write("warning: " + fmt::format(format, std::forward<Args>(args)...));
}

}  // namespace log
}  // namespace quadrat
