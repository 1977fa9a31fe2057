#include "quadrat/report/text_table.h"

#include <algorithm>
#include <cassert>

namespace quadrat::report {

std::size_t display_width(std::string_view text) {
  return static_cast<std::size_t>(std::count_if(text.begin(), text.end(), [](char c) {
    return (static_cast<unsigned char>(c) & 0xC0) != 0x80;
  }));
}

std::string shortened(std::string_view text, std::size_t width) {
  if (display_width(text) <= width || width == 0) return std::string(text);
  std::string cut;
  std::size_t shown = 0;
  for (const char c : text) {
    const bool starts = (static_cast<unsigned char>(c) & 0xC0) != 0x80;
    if (starts && ++shown == width) break;
    cut += c;
  }
  return cut + "~";
}

TextTable::TextTable(std::vector<std::string> header)
    : header_(std::move(header)), right_(header_.size()) {}

void TextTable::add(std::vector<std::string> row) {
  assert(row.size() == header_.size());
  if (rows_.empty()) {
    for (std::size_t c = 0; c < row.size(); ++c) {
      if (!right_[c])
        right_[c] =
            !row[c].empty() && row[c].find_first_not_of("0123456789.%+-e ") == std::string::npos;
    }
  }
  rows_.push_back(std::move(row));
}

void TextTable::align_left(std::size_t column) { right_[column] = false; }
void TextTable::align_right(std::size_t column) { right_[column] = true; }

std::string TextTable::text(bool bold, std::size_t indent) const {
  std::vector<std::size_t> widths;
  for (const std::string& title : header_) widths.push_back(display_width(title));
  for (const auto& row : rows_) {
    for (std::size_t c = 0; c < row.size(); ++c)
      widths[c] = std::max(widths[c], display_width(row[c]));
  }
  const auto line = [&](const std::vector<std::string>& cells) {
    std::string text(indent, ' ');
    for (std::size_t c = 0; c < cells.size(); ++c) {
      const std::string blanks(widths[c] - display_width(cells[c]), ' ');
      if (right_[c]) text += blanks;
      text += cells[c];
      if (!right_[c]) text += blanks;
      if (c + 1 < cells.size()) text += "  ";
    }
    text.erase(text.find_last_not_of(' ') + 1);
    return text;
  };
  std::string text;
  if (std::any_of(header_.begin(), header_.end(),
                  [](const std::string& title) { return !title.empty(); })) {
    text += bold ? "\x1b[1m" + line(header_) + "\x1b[0m\n" : line(header_) + "\n";
  }
  for (const auto& row : rows_) text += line(row) + "\n";
  return text;
}

}  // namespace quadrat::report
