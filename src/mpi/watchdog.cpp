#include "quadrat/mpi/watchdog.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <climits>
#include <csignal>
#include <exception>

#include "quadrat/base/clock.h"
#include "quadrat/base/error.h"
#include "quadrat/base/files.h"
#include "quadrat/base/log.h"
#include "quadrat/mpi/environment.h"

namespace quadrat::mpi {

namespace {

using Seconds = std::chrono::duration<double>;

constexpr int kTag = 1;
constexpr char kAlive = 1;
constexpr char kGoodbye = 2;

/// The host's name of the rank before this one.
std::string host_of_previous(const Communicator& ranks) {
  std::string mine = host_name();
  mine.resize(HOST_NAME_MAX + 1);
  std::string theirs(mine.size(), '\0');
  const int next = (ranks.rank() + 1) % ranks.size();
  const int previous = (ranks.rank() + ranks.size() - 1) % ranks.size();
  const int length = static_cast<int>(mine.size());
  check(MPI_Sendrecv(mine.data(), length, MPI_CHAR, next, kTag, theirs.data(), length, MPI_CHAR,
                     previous, kTag, ranks.get(), MPI_STATUS_IGNORE),
        "MPI_Sendrecv");
  return theirs.c_str();
}

}  // namespace

Watchdog::Watchdog(const Communicator& ranks, double limit_s)
    : ranks_(ranks.duplicate()), limit_s_(limit_s) {
  if (ranks_.size() == 1 || limit_s <= 0) return;
  watched_host_ = host_of_previous(ranks_);
  thread_ = std::thread([this] { watch(); });
}

Watchdog::~Watchdog() {
  if (!thread_.joinable()) return;
  {
    const std::lock_guard lock(mutex_);
    // Where an exception is on its way the others may never come to here.
    phase_ = std::uncaught_exceptions() > 0 ? Phase::kAbandoned : Phase::kLeaving;
  }
  changed_.notify_all();
  thread_.join();
}

void Watchdog::send(char beat) {
  int is_sent = 1;
  if (sending_ != MPI_REQUEST_NULL) MPI_Test(&sending_, &is_sent, MPI_STATUS_IGNORE);
  // A rank that does not take its beats gets no more of them, so that they do not pile up. It must
  // hear the goodbye.
  if (is_sent == 0 && beat != kGoodbye) return;
  if (is_sent == 0) MPI_Request_free(&sending_);
  beat_ = beat;
  MPI_Isend(&beat_, 1, MPI_CHAR, (ranks_.rank() + 1) % ranks_.size(), kTag, ranks_.get(),
            &sending_);
}

void Watchdog::report_and_abort(double silent_s) const {
  log::line(
      "error: rank {} on host '{}' has given no sign of life for {:.0f} s: it was stopped or "
      "killed, or the network to it "
      "failed; the job ends here; start the same command again to go on",
      (ranks_.rank() + ranks_.size() - 1) % ranks_.size(), watched_host_, silent_s);
  // Should MPI hang too: the launcher ends the other ranks when this one dies.
  constexpr unsigned kGrace_s = 10;
  std::signal(SIGALRM, SIG_DFL);
  ::alarm(kGrace_s);
  abort(kExitInterrupted);
}

void Watchdog::watch() {
  const int previous = (ranks_.rank() + ranks_.size() - 1) % ranks_.size();
  const Seconds interval(std::min(1.0, limit_s_ / 5));
  const Seconds interval_leaving(0.002);
  bool has_left = false;  // the watched rank said goodbye
  bool said_goodbye = false;
  Clock::time_point heard = Clock::now();
  Clock::time_point looked = heard;
  std::unique_lock lock(mutex_);
  while (phase_ != Phase::kAbandoned) {
    const bool leaving = phase_ == Phase::kLeaving;
    lock.unlock();
    if (!said_goodbye) send(leaving ? kGoodbye : kAlive);
    said_goodbye = said_goodbye || leaving;
    while (!has_left) {
      // What MPI itself finds wrong with the rank is no sign of life.
      int found = 0;
      if (MPI_Iprobe(previous, kTag, ranks_.get(), &found, MPI_STATUS_IGNORE) != MPI_SUCCESS ||
          found == 0)
        break;
      char beat = 0;
      if (MPI_Recv(&beat, 1, MPI_CHAR, previous, kTag, ranks_.get(), MPI_STATUS_IGNORE) !=
          MPI_SUCCESS)
        break;
      heard = Clock::now();
      has_left = beat == kGoodbye;
    }
    const auto now = Clock::now();
    // This process itself stood still, perhaps the whole job with it: what came meanwhile is not to
    // be judged yet.
    if (now - looked > Seconds(limit_s_ / 2)) heard = now;
    looked = now;
    if (!has_left && now - heard > Seconds(limit_s_))
      report_and_abort(Seconds(now - heard).count());
    lock.lock();
    if (leaving && has_left) break;
    changed_.wait_for(lock, leaving ? interval_leaving : interval,
                      [&] { return !leaving && phase_ != Phase::kWatching; });
  }
  if (phase_ == Phase::kLeaving && sending_ != MPI_REQUEST_NULL)
    MPI_Wait(&sending_, MPI_STATUS_IGNORE);
}

}  // namespace quadrat::mpi
