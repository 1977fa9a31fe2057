#pragma once

#include <charconv>
#include <concepts>
#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

namespace quadrat {

/// The number that the whole text is, in any locale, without blanks and '+'.
/// @param base of integers
/// @return false where it is none, or one that T does not hold; `value` is then of no use
template <typename T>
bool parse_number(std::string_view text, T& value, int base = 10) {
  const char* end = text.data() + text.size();
  std::from_chars_result result{};
  if constexpr (std::integral<T>) {
    result = std::from_chars(text.data(), end, value, base);
  } else {
    result = std::from_chars(text.data(), end, value);
  }
  return result.ec == std::errc{} && result.ptr == end;
}

/// "2026-11-21T09:30:00Z", now.
std::string utc_now();

/// Letters, digits, '-' and '_', at least one: what a run, a class folder or a score may be called,
/// so that it is safe in paths, attributes and column names.
bool is_plain_name(std::string_view name);

/// @throws UsageError naming the option where the name is not plain.
void require_plain_name(std::string_view option, std::string_view name);

/// The candidate closest to `word` by edit distance, or "" where none is near: for "did you mean".
std::string closest(std::string_view word, const std::vector<std::string>& candidates);

/// What comes before the first `separator`, all of it where there is none; `rest` is moved past
/// both.
std::string_view take_until(std::string_view& rest, char separator);

/// Without blanks and carriage returns at its ends.
std::string_view trimmed(std::string_view text);

/// "a, b and c"
std::string enumerate(const std::vector<std::string>& items);

/// The field as CSV wants it (RFC 4180): quoted where it holds a comma, quote or line break.
std::string csv_field(std::string_view field);

/// The bytes of the UTF-8 character at the front of a text that is not empty, 0 for what is none.
std::size_t utf8_length(std::string_view text);

/// The text as UTF-8, for JSON: bytes that are none, as a file's name may hold, as \xNN, so that
/// names which differ stay different.
std::string as_utf8(std::string_view raw);

/// "1.5 GB" (powers of 1000).
std::string format_bytes(double bytes);

/// Shown in a message: what is not printable ASCII as \xNN, cut after `max_bytes`.
std::string printable(std::string_view raw, std::size_t max_bytes = 80);

}  // namespace quadrat
