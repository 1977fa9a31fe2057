#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

namespace quadrat::report {

/// Columns under headings, as wide as their content. Numbers go right, words left, by what the
/// first row has.
class TextTable {
 public:
  explicit TextTable(std::vector<std::string> header);

  void add(std::vector<std::string> row);
  /// Columns of words that look like numbers, or the other way round.
  void align_left(std::size_t column);
  void align_right(std::size_t column);

  /// @param bold whether the heading may be bold @param indent blanks before each line
  std::string text(bool bold = false, std::size_t indent = 0) const;

 private:
  std::vector<std::string> header_;
  std::vector<std::vector<std::string>> rows_;
  std::vector<bool> right_;
};

/// Characters on the screen, not bytes: code points of UTF-8.
std::size_t display_width(std::string_view text);

/// Cut to `width` with "~" at the end where something is missing.
std::string shortened(std::string_view text, std::size_t width);

}  // namespace quadrat::report
