#include "html.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <map>

#include "quadrat/base/text.h"
#include "quadrat/image/png.h"
#include "quadrat/report/analysis.h"

namespace quadrat::report {

namespace {

/// Ticks at 1, 2 or 5 times a power of ten, about five of them.
double tick_step(double range) {
  const double rough = range / 5;
  const double power = std::pow(10.0, std::floor(std::log10(rough)));
  for (const double factor : {1.0, 2.0, 5.0}) {
    if (factor * power >= rough) return factor * power;
  }
  return 10 * power;
}

/// Where the axis is to end: at the highest value, or where up to a tenth of them lie far above all
/// others (a loss before the first steps took hold), at the highest of those others.
double highest_to_show(std::vector<double> values) {
  constexpr double kFar = 4;
  std::sort(values.begin(), values.end(), std::greater<>());
  for (std::size_t above = 1; above < values.size() && above <= values.size() / 10 + 1; ++above) {
    if (values[above - 1] > kFar * values[above] && values[above] > 0) return values[above];
  }
  return values.empty() ? 0 : values.front();
}

struct Frame {
  double left = 46, top = 14, right = 450, bottom = 236;
  double x_low = 0, x_high = 1, y_low = 0, y_high = 1;

  double x(double value) const {
    return left + (value - x_low) / (x_high - x_low) * (right - left);
  }
  /// What is above the chart is at its top.
  double y(double value) const {
    return bottom - (std::min(value, y_high) - y_low) / (y_high - y_low) * (bottom - top);
  }
};

std::string y_axis(const Frame& frame, double step, bool as_percent) {
  std::string svg;
  for (double value = std::ceil(frame.y_low / step) * step; value <= frame.y_high + step * 1e-6;
       value += step) {
    const double y = frame.y(value);
    const int digits = std::max(
        0, static_cast<int>(std::ceil(-std::log10(as_percent ? step * 100 : step) - 1e-9)));
    svg += fmt::format(
        R"(<line class="grid" x1="{:.1f}" x2="{:.1f}" y1="{:.1f}" y2="{:.1f}"/>)"
        R"(<text class="tick" x="{:.1f}" y="{:.1f}" text-anchor="end">{:.{}f}{}</text>)",
        frame.left, frame.right, y, y, frame.left - 7, y + 4,
        as_percent                ? 100 * value
        : std::abs(value) < 1e-12 ? 0.0
                                  : value,
        digits, as_percent ? " %" : "");
  }
  return svg;
}

std::string polyline(const std::vector<EpochRow>& rows, double EpochRow::*member,
                     const Frame& frame, const char* css_class) {
  std::string svg;
  std::string path;
  const auto flush = [&] {
    if (!path.empty()) svg += fmt::format(R"(<polyline class="{}" points="{}"/>)", css_class, path);
    path.clear();
  };
  for (const EpochRow& row : rows) {
    if (!std::isfinite(row.*member)) {
      flush();
      continue;
    }
    path += fmt::format("{}{:.1f},{:.1f}", path.empty() ? "" : " ", frame.x(row.epoch),
                        frame.y(row.*member));
    if (rows.size() <= 30) {
      svg += fmt::format(R"(<circle class="{} dot" cx="{:.1f}" cy="{:.1f}" r="2.6"/>)", css_class,
                         frame.x(row.epoch), frame.y(row.*member));
    }
  }
  flush();
  return svg;
}

}  // namespace

std::string escape(std::string_view text) {
  std::string safe;
  while (!text.empty()) {
    const std::size_t length = utf8_length(text);
    const char c = text[0];
    if (length == 1 && c == '&') {
      safe += "&amp;";
    } else if (length == 1 && c == '<') {
      safe += "&lt;";
    } else if (length == 1 && c == '>') {
      safe += "&gt;";
    } else if (length == 1 && c == '"') {
      safe += "&quot;";
    } else if (length == 0 ||
               (length == 1 && (static_cast<unsigned char>(c) < 0x20 || c == 0x7F))) {
      safe += fmt::format("\\x{:02x}", static_cast<unsigned char>(c));
    } else {
      safe += text.substr(0, length);
    }
    text.remove_prefix(std::max<std::size_t>(length, 1));
  }
  return safe;
}

std::string json_text(std::string_view text) {
  std::string json = "\"";
  while (!text.empty()) {
    const std::size_t length = utf8_length(text);
    const auto c = static_cast<unsigned char>(text[0]);
    if (length > 1) {
      json += text.substr(0, length);
    } else if (length == 0 || c < 0x20 || c == '"' || c == '\\' || c == '<' || c == '>' ||
               c == '&') {
      json += fmt::format("\\u{:04x}", length == 0 ? 0xFFFDU : c);
    } else {
      json += static_cast<char>(c);
    }
    text.remove_prefix(std::max<std::size_t>(length, 1));
  }
  return json + '"';
}

std::string base64(std::span<const std::byte> bytes) {
  constexpr const char* kDigits =
      "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string text;
  text.reserve((bytes.size() + 2) / 3 * 4);
  for (std::size_t i = 0; i < bytes.size(); i += 3) {
    const auto at = [&](std::size_t j) {
      return j < bytes.size() ? std::to_integer<unsigned>(bytes[j]) : 0U;
    };
    const unsigned group = at(i) << 16 | at(i + 1) << 8 | at(i + 2);
    text += kDigits[group >> 18];
    text += kDigits[group >> 12 & 63];
    text += i + 1 < bytes.size() ? kDigits[group >> 6 & 63] : '=';
    text += i + 2 < bytes.size() ? kDigits[group & 63] : '=';
  }
  return text;
}

std::string png_uri(std::span<const std::uint8_t> rgb, std::uint32_t width_px,
                    std::uint32_t height_px) {
  return "data:image/png;base64," + base64(encode_png(rgb, width_px, height_px, 9));
}

std::string hex(const Rgb& rgb) {
  return fmt::format("#{:02X}{:02X}{:02X}", rgb[0], rgb[1], rgb[2]);
}

std::string grouped(std::int64_t number) {
  const std::string digits = fmt::format("{}", std::abs(number));
  std::string text = number < 0 ? "\u2212" : "";
  for (std::size_t i = 0; i < digits.size(); ++i) {
    if (i > 0 && (digits.size() - i) % 3 == 0) text += ',';
    text += digits[i];
  }
  return text;
}

std::string percent(double fraction, int digits) {
  return fmt::format("{:.{}f}\u00A0%", 100 * fraction, digits);
}

std::vector<Rgb> class_colours(const std::vector<std::string>& classes) {
  static const std::map<std::string, Rgb, std::less<>> kLandCover{
      {"Barren", {0xE3, 0xD2, 0xCC}},     {"Cultivated", {0xEB, 0xBD, 0x32}},
      {"Developed", {0xDF, 0x37, 0x1F}},  {"Forest", {0x0A, 0x48, 0x2F}},
      {"Herbaceous", {0xA9, 0xE4, 0x80}}, {"Shrub", {0x2D, 0x8D, 0x92}}};
  constexpr Rgb kOthers[] = {{0x00, 0x72, 0xB2}, {0xE6, 0x9F, 0x00}, {0x00, 0x9E, 0x73},
                             {0xCC, 0x79, 0xA7}, {0x56, 0xB4, 0xE9}, {0xD5, 0x5E, 0x00},
                             {0xF0, 0xE4, 0x42}, {0x55, 0x55, 0x55}};
  const bool known = std::all_of(classes.begin(), classes.end(), [&](const std::string& name) {
    return kLandCover.contains(name);
  });
  std::vector<Rgb> colours;
  for (std::size_t c = 0; c < classes.size(); ++c) {
    if (known) {
      colours.push_back(kLandCover.find(classes[c])->second);
      continue;
    }
    // More classes than colours: the same ones again, paler.
    Rgb rgb = kOthers[c % std::size(kOthers)];
    for (std::size_t round = 0; round < std::min<std::size_t>(c / std::size(kOthers), 4); ++round) {
      for (std::uint8_t& value : rgb) value = static_cast<std::uint8_t>(value + (255 - value) / 3);
    }
    colours.push_back(rgb);
  }
  return colours;
}

Rgb sequential_colour(double share) {
  constexpr double kStops[][3] = {{0, 34, 78},     {53, 69, 108},   {102, 105, 112},
                                  {148, 142, 119}, {200, 184, 102}, {254, 232, 56}};
  constexpr std::size_t kLast = std::size(kStops) - 1;
  const double at = std::clamp(std::isfinite(share) ? share : 0.0, 0.0, 1.0) * kLast;
  const std::size_t low = std::min(static_cast<std::size_t>(at), kLast - 1);
  Rgb rgb{};
  for (std::size_t i = 0; i < 3; ++i) {
    rgb[i] = static_cast<std::uint8_t>(std::lround(
        kStops[low][i] + (at - static_cast<double>(low)) * (kStops[low + 1][i] - kStops[low][i])));
  }
  return rgb;
}

std::string curve_chart(const RunRecord& run, double EpochRow::*train, double EpochRow::*validation,
                        const std::string& title, bool as_percent) {
  Frame frame;
  std::vector<double> values;
  for (const EpochRow& row : run.epochs) {
    for (const double value : {row.*train, row.*validation}) {
      if (std::isfinite(value)) values.push_back(value);
    }
  }
  double high = highest_to_show(std::move(values));
  if (high <= 0) high = 1;
  const double step = tick_step(high);
  frame.y_high = std::ceil(high / step) * step;
  frame.x_low = run.epochs.empty() ? 0 : run.epochs.front().epoch;
  frame.x_high = run.epochs.empty() ? 1 : run.epochs.back().epoch;
  if (frame.x_high <= frame.x_low) {
    frame.x_low -= 1;
    frame.x_high += 1;
  }
  std::string svg = fmt::format(
      R"(<figure><figcaption>{}</figcaption><svg viewBox="0 0 540 276" role="img" aria-label="{} by epoch">)",
      escape(title), escape(title));
  svg += y_axis(frame, step, as_percent);
  const double x_step = std::max(1.0, tick_step(frame.x_high - frame.x_low));
  for (double x = std::max(1.0, std::ceil(frame.x_low / x_step) * x_step); x <= frame.x_high;
       x += x_step) {
    svg += fmt::format(
        R"(<text class="tick" x="{:.1f}" y="{:.1f}" text-anchor="middle">{:.0f}</text>)",
        frame.x(x), frame.bottom + 18, x);
  }
  svg +=
      fmt::format(R"(<text class="tick" x="{:.1f}" y="{:.1f}" text-anchor="middle">epoch</text>)",
                  0.5 * (frame.left + frame.right), frame.bottom + 36);
  for (const EpochRow& row : run.epochs) {
    if (row.epoch != run.kept_epoch) continue;
    const double x = frame.x(row.epoch);
    svg += fmt::format(R"(<line class="kept" x1="{:.1f}" x2="{:.1f}" y1="{:.1f}" y2="{:.1f}"/>)"
                       R"(<text class="tick" x="{:.1f}" y="{:.1f}" text-anchor="end">kept</text>)",
                       x, x, frame.top, frame.bottom, x - 5, frame.top + 10);
  }
  for (const EpochRow& row : run.epochs) {
    const double value = std::fmax(row.*train, row.*validation);
    if (!std::isfinite(value) || value <= frame.y_high) continue;
    svg += fmt::format(R"(<text class="tick" x="{:.1f}" y="{:.1f}">{:.3g} ↑</text>)",
                       frame.x(row.epoch) + 6, frame.top + 2, value);
  }
  svg += polyline(run.epochs, train, frame, "line-train");
  svg += polyline(run.epochs, validation, frame, "line-validation");
  if (!run.epochs.empty()) {
    // Named where the lines end; apart where they end together.
    constexpr double kApart = 16;
    const EpochRow& last = run.epochs.back();
    double y_train = frame.y(std::isfinite(last.*train) ? last.*train : 0);
    double y_validation = frame.y(std::isfinite(last.*validation) ? last.*validation : 0);
    if (std::abs(y_train - y_validation) < kApart) {
      const double middle = 0.5 * (y_train + y_validation);
      const bool below = y_train >= y_validation;
      y_train = middle + (below ? kApart : -kApart) / 2;
      y_validation = middle + (below ? -kApart : kApart) / 2;
    }
    svg += fmt::format(
        R"(<text class="name name-train" x="{0:.1f}" y="{1:.1f}">training</text>)"
        R"(<text class="name name-validation" x="{0:.1f}" y="{2:.1f}">validation</text>)",
        frame.right + 8, y_train + 4, y_validation + 4);
  }
  return svg + "</svg></figure>";
}

std::string calibration_chart(const Calibration& calibration) {
  Frame frame;
  frame.right = 330;
  frame.bottom = 298;
  std::string svg =
      R"(<svg class="square" viewBox="0 0 350 340" role="img" aria-label="Share of tiles that are right, by how sure the model was">)";
  svg += y_axis(frame, 0.2, true);
  for (int tick = 0; tick <= 100; tick += 20) {
    svg += fmt::format(R"(<text class="tick" x="{:.1f}" y="{:.1f}" text-anchor="middle">{}</text>)",
                       frame.x(tick / 100.0), frame.bottom + 18, tick);
  }
  std::int64_t most = 1;
  for (const CalibrationBin& bin : calibration.bins) most = std::max(most, bin.tiles);
  for (const CalibrationBin& bin : calibration.bins) {
    if (bin.tiles == 0) continue;
    const double left = frame.x(bin.low) + 1.5;
    const double width = frame.x(bin.high) - frame.x(bin.low) - 3;
    svg += fmt::format(
        R"(<rect class="bar" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}" style="--w:{:.2f}">)"
        R"(<title>{} to {}: {} tiles, sure {}, right {}</title></rect>)",
        left, frame.y(bin.accuracy), width, frame.bottom - frame.y(bin.accuracy),
        0.25 + 0.75 * std::sqrt(static_cast<double>(bin.tiles) / static_cast<double>(most)),
        percent(bin.low, 0), percent(bin.high, 0), grouped(bin.tiles), percent(bin.confidence),
        percent(bin.accuracy));
  }
  svg += fmt::format(R"(<line class="ideal" x1="{:.1f}" y1="{:.1f}" x2="{:.1f}" y2="{:.1f}"/>)",
                     frame.x(0), frame.y(0), frame.x(1), frame.y(1));
  svg += fmt::format(
      R"(<text class="tick" x="{:.1f}" y="{:.1f}" text-anchor="middle">the model's own confidence, %</text>)",
      0.5 * (frame.left + frame.right), frame.bottom + 36);
  return svg + "</svg>";
}

std::string confusion_table(const std::vector<std::int64_t>& counts,
                            const std::vector<std::string>& rows, const std::string& corner,
                            const std::string& caption) {
  // White on the cell's blue is easier to read than the page's ink from here on.
  constexpr double kStrong = 0.75;
  const std::size_t size = rows.size();
  std::string html = fmt::format(
      R"(<div class="scroll" tabindex="0" role="group" aria-label="{}"><table class="matrix"><caption>{}</caption><thead><tr><th scope="col">{}</th>)",
      escape(caption), escape(caption), escape(corner));
  for (const std::string& name : rows)
    html += fmt::format(R"(<th scope="col"><span>{}</span></th>)", escape(name));
  html += "</tr></thead><tbody>";
  for (std::size_t row = 0; row < size; ++row) {
    std::int64_t all = 0;
    for (std::size_t column = 0; column < size; ++column) all += counts[row * size + column];
    html += fmt::format(R"(<tr><th scope="row">{}</th>)", escape(rows[row]));
    for (std::size_t column = 0; column < size; ++column) {
      const std::int64_t count = counts[row * size + column];
      const double share = all == 0 ? 0 : static_cast<double>(count) / static_cast<double>(all);
      html += fmt::format(R"(<td class="{}{}{}" style="--v:{:.3f}">{}<small>{}</small></td>)",
                          row == column ? "right" : "wrong", share > kStrong ? " strong" : "",
                          count == 0 ? " none" : "", share, grouped(count),
                          count == 0 ? "" : percent(share, share < 0.0995 ? 1 : 0));
    }
    html += "</tr>";
  }
  return html + "</tbody></table></div>";
}

}  // namespace quadrat::report
