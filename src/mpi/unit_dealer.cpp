#include "quadrat/mpi/unit_dealer.h"

#include <algorithm>
#include <chrono>
#include <exception>
#include <thread>

namespace quadrat::mpi {

namespace {
constexpr int kCounter = 0;
constexpr int kDone = 1;
constexpr int kRoot = 0;
constexpr std::int64_t kNoMore = std::int64_t{1} << 60;
}  // namespace

UnitDealer::UnitDealer(const Communicator& ranks, std::uint64_t units)
    : comm_(ranks.get()), is_root_(ranks.is_root()), units_(units) {
  constexpr MPI_Aint kCells = 2;
  const MPI_Aint bytes = is_root_ ? kCells * static_cast<MPI_Aint>(sizeof(std::int64_t)) : 0;
  check(MPI_Win_allocate(bytes, sizeof(std::int64_t), MPI_INFO_NULL, comm_, &memory_, &window_),
             "MPI_Win_allocate");
  check(MPI_Win_lock_all(MPI_MODE_NOCHECK, window_), "MPI_Win_lock_all");
  if (is_root_) {
    std::fill_n(memory_, kCells, 0);
    check(MPI_Win_sync(window_), "MPI_Win_sync");
  }
  check(MPI_Barrier(comm_), "MPI_Barrier");
  ask();
}

UnitDealer::~UnitDealer() {
  // Where an exception is on its way other ranks do not take part: the job is about to be aborted.
  if (std::uncaught_exceptions() > 0) return;
  MPI_Win_unlock_all(window_);
  MPI_Win_free(&window_);
}

void UnitDealer::ask() {
  // Static: MPI may read it until the flush in next().
  static constexpr std::int64_t kOne = 1;
  check(MPI_Fetch_and_op(&kOne, &asked_, MPI_INT64_T, kRoot, kCounter, MPI_SUM, window_), "MPI_Fetch_and_op");
}

std::optional<std::uint64_t> UnitDealer::next() {
  check(MPI_Win_flush(kRoot, window_), "MPI_Win_flush");
  const auto got = static_cast<std::uint64_t>(asked_);
  if (got >= units_) return std::nullopt;
  ask();
  return got;
}

void UnitDealer::poll() {
  int found = 0;
  check(MPI_Iprobe(MPI_ANY_SOURCE, MPI_ANY_TAG, comm_, &found, MPI_STATUS_IGNORE), "MPI_Iprobe");
}

void UnitDealer::add_done(std::uint64_t tiles) {
  const auto value = static_cast<std::int64_t>(tiles);
  check(MPI_Accumulate(&value, 1, MPI_INT64_T, kRoot, kDone, 1, MPI_INT64_T, MPI_SUM, window_), "MPI_Accumulate");
  check(MPI_Win_flush_local(kRoot, window_), "MPI_Win_flush_local");
}

std::uint64_t UnitDealer::done() {
  check(MPI_Win_sync(window_), "MPI_Win_sync");
  return static_cast<std::uint64_t>(memory_[kDone]);
}

void UnitDealer::stop_all() {
  check(MPI_Accumulate(&kNoMore, 1, MPI_INT64_T, kRoot, kCounter, 1, MPI_INT64_T, MPI_SUM, window_),
             "MPI_Accumulate");
  check(MPI_Win_flush(kRoot, window_), "MPI_Win_flush");
}

void UnitDealer::begin_wait() { check(MPI_Ibarrier(comm_, &wait_), "MPI_Ibarrier"); }

bool UnitDealer::wait_is_over() {
  int over = 0;
  check(MPI_Test(&wait_, &over, MPI_STATUS_IGNORE), "MPI_Test");
  if (over == 0) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  return over != 0;
}

}  // namespace quadrat::mpi
