#include "quadrat/mpi/unit_dealer.h"

#include <chrono>
#include <exception>
#include <thread>

#include "quadrat/base/signals.h"

namespace quadrat::mpi {

namespace {
constexpr int kRoot = 0;
constexpr int kToRoot = 1;
constexpr int kAnswer = 2;
// What the root is told; anything from 0 on is a number of tiles done. One tag for all, so that
// they arrive in order.
constexpr std::int64_t kAsk = -1;
constexpr std::int64_t kStop = -2;
constexpr std::int64_t kWaiting = -3;
constexpr std::int64_t kNoMore = std::int64_t{1} << 60;
}  // namespace

UnitDealer::UnitDealer(const Communicator& ranks, std::uint64_t units)
    : ranks_(ranks.duplicate()), units_(units) {
  ask();
}

UnitDealer::~UnitDealer() {
  if (answer_ == MPI_REQUEST_NULL) return;
  // An exception is on its way: MPI must not write to where this object was.
  MPI_Cancel(&answer_);
  MPI_Request_free(&answer_);
}

/// Eight bytes are below every MPI library's limit for messages that it takes without waiting for
/// the receiver.
void UnitDealer::tell_root(std::int64_t what) {
  check(MPI_Send(&what, 1, MPI_INT64_T, kRoot, kToRoot, ranks_.get()), "MPI_Send");
}

void UnitDealer::ask() {
  if (ranks_.is_root()) {
    asked_ = next_++;
    return;
  }
  check(MPI_Irecv(&asked_, 1, MPI_INT64_T, kRoot, kAnswer, ranks_.get(), &answer_), "MPI_Irecv");
  tell_root(kAsk);
}

void UnitDealer::serve() {
  for (;;) {
    int found = 0;
    MPI_Status status;
    check(MPI_Iprobe(MPI_ANY_SOURCE, kToRoot, ranks_.get(), &found, &status), "MPI_Iprobe");
    if (found == 0) return;
    std::int64_t what = 0;
    check(MPI_Recv(&what, 1, MPI_INT64_T, status.MPI_SOURCE, kToRoot, ranks_.get(),
                   MPI_STATUS_IGNORE),
          "MPI_Recv");
    if (what == kAsk) {
      const std::int64_t number = next_++;
      check(MPI_Send(&number, 1, MPI_INT64_T, status.MPI_SOURCE, kAnswer, ranks_.get()),
            "MPI_Send");
    } else if (what == kStop) {
      next_ = kNoMore;
    } else if (what == kWaiting) {
      ++waiting_ranks_;
    } else {
      done_ += static_cast<std::uint64_t>(what);
    }
  }
}

std::optional<std::uint64_t> UnitDealer::next() {
  if (ranks_.is_root()) {
    serve();
  } else {
    check(MPI_Wait(&answer_, MPI_STATUS_IGNORE), "MPI_Wait");
  }
  const auto got = static_cast<std::uint64_t>(asked_);
  if (got >= units_) return std::nullopt;
  ask();
  return got;
}

void UnitDealer::poll() {
  if (ranks_.is_root()) return serve();
  int found = 0;
  check(MPI_Iprobe(MPI_ANY_SOURCE, MPI_ANY_TAG, ranks_.get(), &found, MPI_STATUS_IGNORE),
        "MPI_Iprobe");
}

void UnitDealer::add_done(std::uint64_t tiles) {
  if (ranks_.is_root()) {
    done_ += tiles;
  } else {
    tell_root(static_cast<std::int64_t>(tiles));
  }
}

std::uint64_t UnitDealer::done() {
  serve();
  return done_;
}

void UnitDealer::stop_all() {
  if (ranks_.is_root()) {
    next_ = kNoMore;
  } else {
    tell_root(kStop);
  }
}

void UnitDealer::run(const std::function<void()>& work, const std::function<void()>& meanwhile) {
  std::exception_ptr failure;
  try {
    work();
  } catch (...) {
    failure = std::current_exception();
  }
  if (failure || stop_signal() != 0) stop_all();
  wait_for_all(meanwhile);
  together(ranks_, [&] {
    if (failure) std::rethrow_exception(failure);
  });
}

void UnitDealer::begin_wait() {
  if (!ranks_.is_root()) tell_root(kWaiting);
}

bool UnitDealer::wait_is_over() {
  int over = 1;
  if (ranks_.is_root()) serve();
  // A number asked for and not taken is on its way.
  if (answer_ != MPI_REQUEST_NULL) check(MPI_Test(&answer_, &over, MPI_STATUS_IGNORE), "MPI_Test");
  const bool may_go = over != 0 && (!ranks_.is_root() || waiting_ranks_ == ranks_.size() - 1);
  if (may_go && !has_begun_to_wait_) {
    check(MPI_Ibarrier(ranks_.get(), &wait_), "MPI_Ibarrier");
    has_begun_to_wait_ = true;
  }
  over = 0;
  if (has_begun_to_wait_) check(MPI_Test(&wait_, &over, MPI_STATUS_IGNORE), "MPI_Test");
  if (over == 0) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  return over != 0;
}

}  // namespace quadrat::mpi
