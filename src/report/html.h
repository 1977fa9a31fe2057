#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "quadrat/base/files.h"
#include "quadrat/record/run_record.h"

// Small pieces of the report's page. Private to the room.
namespace quadrat::report {

using Rgb = std::array<std::uint8_t, 3>;

/// Safe between tags and in quoted attributes; bytes that are no text become \xNN.
std::string escape(std::string_view text);
std::string base64(std::span<const std::byte> bytes);
std::string png_uri(std::span<const std::uint8_t> rgb, std::uint32_t width_px,
                    std::uint32_t height_px);
/// As a JSON string, safe inside a script element.
std::string json_text(std::string_view text);

std::string hex(const Rgb& rgb);
std::string grouped(std::int64_t number);  ///< "65,563"
std::string percent(double fraction, int digits = 1);

/// One colour a class. The six of the sample have colours of land cover that stay at least 25 CIE76
/// units apart for people with any of the three colour vision deficiencies (Machado et al., 2009);
/// others take Okabe and Ito's.
std::vector<Rgb> class_colours(const std::vector<std::string>& classes);

/// Low to high in steps of even lightness that all can tell apart: after cividis (Nunez et al.,
/// 2018).
Rgb sequential_colour(double share);

/// Train and validation by epoch, with the kept epoch marked.
std::string curve_chart(const RunRecord& run, double EpochRow::*train, double EpochRow::*validation,
                        const std::string& title, bool as_percent);

struct Calibration;
std::string calibration_chart(const Calibration& calibration);

/// Rows true, columns predicted, shaded by the share of their row.
std::string confusion_table(const std::vector<std::int64_t>& counts,
                            const std::vector<std::string>& rows, const std::string& corner,
                            const std::string& caption);

extern const char* const kPageStyle;
extern const char* const kPageScript;

}  // namespace quadrat::report
