#pragma once

#include <mpi.h>

#include <cstdint>
#include <optional>

#include "quadrat/mpi/communicator.h"

namespace quadrat::mpi {

/// Deals numbers 0, 1, ... below a limit to the ranks, each number once: a counter on rank 0 that the others
/// increment by one-sided fetch-and-add, so that nobody waits for anybody. Also carries how much is done.
///
/// Over TCP rank 0 serves its counter only inside MPI calls: every rank calls poll() between batches, and a number is
/// asked for before it is needed. Construction and destruction are collective.
class UnitDealer {
 public:
  UnitDealer(const Communicator& ranks, std::uint64_t units);
  ~UnitDealer();
  UnitDealer(const UnitDealer&) = delete;
  UnitDealer& operator=(const UnitDealer&) = delete;

  /// The number that was asked for last, and asks for the one after; nothing when all are dealt.
  std::optional<std::uint64_t> next();

  /// Lets MPI move what is under way.
  void poll();

  /// Adds to the tiles that are done on all ranks together.
  void add_done(std::uint64_t tiles);

  /// Tiles done on all ranks so far. Only on rank 0.
  std::uint64_t done();

  /// No rank gets another number.
  void stop_all();

  /// Waits for all ranks without burning the processor that another rank may be computing on. Collective.
  /// @param meanwhile called a few times a second
  template <typename Work>
  void wait_for_all(Work meanwhile) {
    begin_wait();
    while (!wait_is_over()) meanwhile();
  }

 private:
  void ask();
  void begin_wait();
  bool wait_is_over();

  MPI_Comm comm_;
  bool is_root_;
  std::uint64_t units_;
  std::int64_t* memory_ = nullptr;  ///< on rank 0: the counter, then the tiles done
  MPI_Win window_ = MPI_WIN_NULL;
  MPI_Request wait_ = MPI_REQUEST_NULL;
  std::int64_t asked_ = 0;
};

}  // namespace quadrat::mpi
