#pragma once

#include <fmt/format.h>

#include <concepts>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace quadrat {

/// A name with a value: an option as used, or a fact about where and with what a program ran.
/// Compared by name and text.
struct Setting {
  enum class Type { kText, kInteger, kReal };

  Setting(std::string called, std::string text, Type stored = Type::kText)
      : name(std::move(called)), value(std::move(text)), type(stored) {}
  template <std::integral T>
  Setting(std::string called, T number)
      : Setting(std::move(called), fmt::format("{}", number), Type::kInteger) {}
  Setting(std::string called, double number)
      : Setting(std::move(called), fmt::format("{}", number), Type::kReal) {}

  bool operator==(const Setting& other) const { return name == other.name && value == other.value; }

  std::string name;
  std::string value;  ///< as text, numbers in their shortest form
  Type type;          ///< what a record stores it as
};

/// In the order they are written.
using Settings = std::vector<Setting>;

/// The setting's value, or "".
std::string setting(const Settings& settings, std::string_view name);

}  // namespace quadrat
