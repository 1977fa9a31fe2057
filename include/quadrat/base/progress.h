#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "quadrat/base/clock.h"

namespace quadrat {

/// How far a long piece of work has come, with its rate and the time left, on stderr: a bar redrawn
/// in place on a terminal, a line every `log_interval_s` seconds in a log file. Used by one thread
/// of one rank.
class Progress {
 public:
  /// @param what shown first, e.g. "epoch 3/10"
  /// @param unit what is counted, e.g. "tiles"
  /// @param total how many there will be
  /// @param enabled false on all ranks but one: then nothing is ever printed
  Progress(std::string_view what, std::string_view unit, std::uint64_t total, bool enabled = true,
           double log_interval_s = 10);
  ~Progress();
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  /// `done` so far. Cheap to call often: prints at most ten times a second.
  /// @param note short text after the numbers, e.g. "loss 0.53"
  void update(std::uint64_t done, std::string_view note = {});

  /// Clears the bar. Called by the destructor too.
  void finish();

 private:
  std::string what_;
  std::string unit_;
  std::uint64_t total_;
  bool enabled_;
  bool terminal_;
  bool drawn_ = false;
  double log_interval_s_;
  std::uint64_t first_done_ = 0;
  bool started_ = false;
  Clock::time_point start_;
  Clock::time_point last_print_;
};

/// "1 h 05 min", "3 min 20 s", "12 s", "0.4 s".
std::string format_duration(double seconds);

}  // namespace quadrat
