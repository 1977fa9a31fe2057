#include "quadrat/base/progress.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>

#include "quadrat/base/log.h"

namespace quadrat {

namespace {
constexpr int kBarWidth = 24;
constexpr double kRedrawInterval_s = 0.1;

double seconds_between(std::chrono::steady_clock::time_point a,
                       std::chrono::steady_clock::time_point b) {
  return std::chrono::duration<double>(b - a).count();
}
}  // namespace

std::string format_duration(double seconds) {
  if (!std::isfinite(seconds) || seconds < 0) return "?";
  if (seconds < 10) return fmt::format("{:.1f} s", seconds);
  const auto whole = static_cast<std::int64_t>(std::llround(seconds));
  if (whole < 60) return fmt::format("{} s", whole);
  if (whole < 3600) return fmt::format("{} min {:02d} s", whole / 60, whole % 60);
  return fmt::format("{} h {:02d} min", whole / 3600, whole % 3600 / 60);
}

Progress::Progress(std::string_view what, std::string_view unit, std::uint64_t total, bool enabled,
                   double log_interval_s)
    : what_(what),
      unit_(unit),
      total_(total),
      enabled_(enabled),
      terminal_(::isatty(STDERR_FILENO) == 1),
      log_interval_s_(log_interval_s),
      start_(Clock::now()),
      last_print_(start_) {}

Progress::~Progress() { finish(); }

void Progress::update(std::uint64_t done, std::string_view note) {
  if (!enabled_) return;
  const auto now = Clock::now();
  if (!started_) {
    // What was done before (a resumed run) must not count into the rate.
    started_ = true;
    first_done_ = done;
    start_ = now;
  }
  const double since_print_s = seconds_between(last_print_, now);
  if (since_print_s < (terminal_ ? kRedrawInterval_s : log_interval_s_)) return;
  last_print_ = now;

  const double elapsed_s = seconds_between(start_, now);
  const double rate = elapsed_s > 0 ? static_cast<double>(done - first_done_) / elapsed_s : 0;
  std::string text = fmt::format("{} {}/{} {}", what_, done, total_, unit_);
  if (rate > 0) {
    const double left_s = static_cast<double>(total_ - std::min(done, total_)) / rate;
    text += fmt::format(", {:.{}f}/s, {} left", rate, rate < 10 ? 1 : 0, format_duration(left_s));
  }
  if (!note.empty()) text += fmt::format(", {}", note);
  if (!terminal_) {
    log::write(text);
    return;
  }
  const double share =
      total_ > 0 ? std::min(1.0, static_cast<double>(done) / static_cast<double>(total_)) : 1;
  const int filled = static_cast<int>(share * kBarWidth);
  const std::string bar =
      fmt::format("\r\033[K[{}{}] {}", std::string(static_cast<std::size_t>(filled), '='),
                  std::string(static_cast<std::size_t>(kBarWidth - filled), ' '), text);
  [[maybe_unused]] const auto written = ::write(STDERR_FILENO, bar.data(), bar.size());
  drawn_ = true;
}

void Progress::finish() {
  if (!drawn_) return;
  drawn_ = false;
  [[maybe_unused]] const auto written = ::write(STDERR_FILENO, "\r\033[K", 4);
}

}  // namespace quadrat
