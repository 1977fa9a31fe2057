#pragma once

namespace quadrat {

/// From now on SIGUSR1, SIGTERM and SIGINT only set a flag, so that a program can finish its step,
/// save and exit 75. A second SIGINT kills at once, for the person at the keyboard.
///
/// Called before there are other threads, MPI's among them: a thread of its own takes the signals,
/// and no thread begun later is ever interrupted by them. @throws IoError
void catch_stop_signals();

/// The signal that asked this process to stop, or 0.
int stop_signal() noexcept;

/// As if the signal had arrived; 0 forgets. For tests, and for ranks told by another rank.
void set_stop_signal(int signal) noexcept;

}  // namespace quadrat
