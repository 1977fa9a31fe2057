#include "quadrat/base/signals.h"

#include <pthread.h>
#include <unistd.h>

#include <atomic>
#include <csignal>
#include <initializer_list>
#include <mutex>
#include <system_error>
#include <thread>

#include "quadrat/base/error.h"

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
  static std::once_flag once;
  std::call_once(once, [] {
    struct sigaction action {};
    action.sa_handler = on_stop_signal;
    action.sa_flags = SA_RESTART;
    sigemptyset(&action.sa_mask);
    sigset_t ours;
    sigemptyset(&ours);
    for (const int signal : {SIGUSR1, SIGTERM, SIGINT}) {
      sigaction(signal, &action, nullptr);
      sigaddset(&ours, signal);
    }
    // One thread takes them, and it computes nothing. oneDNN's matrix products for AVX2 keep the
    // stack pointer in a heap buffer: what the kernel puts on the stack of a thread that a signal
    // reaches there overwrites what lies before that buffer.
    pthread_sigmask(SIG_BLOCK, &ours, nullptr);
    try {
      std::thread([ours] {
        pthread_sigmask(SIG_UNBLOCK, &ours, nullptr);
        while (true) ::pause();
      }).detach();
    } catch (const std::system_error& error) {
      throw IoError("start a thread", "", error.code().message(),
                    "raise the limit of processes, ulimit -u");
    }
  });
}

int stop_signal() noexcept { return received.load(std::memory_order_relaxed); }

void set_stop_signal(int signal) noexcept { received.store(signal, std::memory_order_relaxed); }

}  // namespace quadrat
