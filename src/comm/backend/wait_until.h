#pragma once

#include <chrono>
#include <thread>

#include "quadrat/base/clock.h"

namespace quadrat::comm {

/// Waits by asking, so that a failure ends the waiting: a host that waits inside CUDA for a sum
/// that will never come waits for ever.
/// @param is_done never waits @param check throws where it will never be done
template <typename IsDone, typename Check>
void wait_until(IsDone is_done, Check check) {
  constexpr std::chrono::milliseconds kEager{2};
  constexpr std::chrono::microseconds kPause{50};
  const auto begin = Clock::now();
  while (!is_done()) {
    check();
    // Most sums are there at once. A process that waits for long leaves its core to others.
    if (Clock::now() - begin < kEager) {
      std::this_thread::yield();
    } else {
      std::this_thread::sleep_for(kPause);
    }
  }
}

}  // namespace quadrat::comm
