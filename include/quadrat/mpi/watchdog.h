#pragma once

#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "quadrat/mpi/communicator.h"

namespace quadrat::mpi {

/// Ends the job where a rank is gone or stands still, instead of letting the others wait for it for
/// ever.
///
/// Each rank's watchdog thread sends a beat to the next rank every second and listens to the one
/// before it. A rank not heard of for `limit_s` is named, with its host, in one line by the one
/// that missed it, which then ends the job with exit status 75: it can be started again. A rank
/// that works for hours between two MPI calls beats all the same, and so does one that waits for a
/// file server: only a process that is killed, stopped or cut off does not. A job that is suspended
/// as a whole goes on when it is continued.
class Watchdog {
 public:
  /// Collective. One rank needs no watchdog and gets none. @param limit_s 0: none either
  Watchdog(const Communicator& ranks, double limit_s);
  /// Waits until the rank it listens to has come to here; collective, unless an exception is on its
  /// way.
  ~Watchdog();
  Watchdog(const Watchdog&) = delete;
  Watchdog& operator=(const Watchdog&) = delete;

 private:
  enum class Phase : std::uint8_t { kWatching, kLeaving, kAbandoned };

  void watch();
  void send(char beat);
  void report_and_abort(double silent_s) const;

  Communicator ranks_;
  double limit_s_;
  std::string watched_host_;
  std::mutex mutex_;
  std::condition_variable changed_;
  Phase phase_ = Phase::kWatching;
  char beat_ = 0;
  MPI_Request sending_ = MPI_REQUEST_NULL;
  std::thread thread_;
};

}  // namespace quadrat::mpi
