#include "quadrat/base/signals.h"

#include <atomic>
#include <csignal>
#include <initializer_list>

namespace quadrat {

namespace {

std::atomic<int> received{0};
static_assert(std::atomic<int>::is_always_lock_free, "it is written by a signal handler");

extern "C" void on_stop_signal(int signal) {
  if (signal == SIGINT && received.load(std::memory_order_relaxed) == SIGINT) {
    std::signal(SIGINT, SIG_DFL);
    std::raise(SIGINT);
  }
  received.store(signal, std::memory_order_relaxed);
}

}  // namespace

void catch_stop_signals() {
  struct sigaction action {};
  action.sa_handler = on_stop_signal;
  action.sa_flags = SA_RESTART;
  sigemptyset(&action.sa_mask);
  for (const int signal : {SIGUSR1, SIGTERM, SIGINT}) sigaction(signal, &action, nullptr);
}

int stop_signal() noexcept { return received.load(std::memory_order_relaxed); }

void set_stop_signal(int signal) noexcept { received.store(signal, std::memory_order_relaxed); }

}  // namespace quadrat
