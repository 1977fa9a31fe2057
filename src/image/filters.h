#pragma once

#include <cstddef>
#include <cstdint>

namespace quadrat::png {

/// PNG's five row filters (PNG specification, 9.2) for 8-bit RGB, where the pixel to the left is 3
/// bytes back.
enum Filter : std::uint8_t { kNone = 0, kSub = 1, kUp = 2, kAverage = 3, kPaeth = 4 };

/// Bytes that may be read, never used, past the end of `coded` in unfilter_row.
inline constexpr std::size_t kPadding = 16;

/// Undoes the filter of one row: `row` is [width_px, 3].
/// @param coded the filtered row, readable kPadding bytes past its end
/// @param above the row before, or as many zeros for the first; readable one byte past its end
/// @param filter at most kPaeth
void unfilter_row(std::uint8_t filter, const std::uint8_t* coded, const std::uint8_t* above,
                  std::uint8_t* row, std::size_t width_px);

/// The same without intrinsics: what other processors run and what tests compare with.
void unfilter_row_portable(std::uint8_t filter, const std::uint8_t* coded,
                           const std::uint8_t* above, std::uint8_t* row, std::size_t width_px);

/// Writes the filter byte and the filtered row (1 + 3 * width_px bytes) into `coded`: the filter
/// whose residuals, taken as signed bytes, have the smallest sum of magnitudes (PNG
/// specification, 12.7).
/// @param scratch 5 * (3 * width_px) bytes
void filter_row(const std::uint8_t* row, const std::uint8_t* above, std::size_t width_px,
                std::uint8_t* scratch, std::uint8_t* coded);

}  // namespace quadrat::png
