#pragma once

#include <mpi.h>

#include <cstdint>
#include <functional>
#include <optional>

#include "quadrat/mpi/communicator.h"

namespace quadrat::mpi {

/// Deals numbers 0, 1, ... below a limit to the ranks, each number once: a counter on rank 0 that
/// the others ask by messages of 8 bytes. Also carries how much is done. (Open MPI 4.1 has
/// one-sided operations between hosts on TCP only for programs without threads of their own in MPI,
/// which the watchdog is.)
///
/// Rank 0 answers only inside these calls: every rank calls poll() between batches, and a number is
/// asked for before it is needed, so that nobody waits for anybody. Construction and destruction
/// are collective.
class UnitDealer {
 public:
  UnitDealer(const Communicator& ranks, std::uint64_t units);
  ~UnitDealer();
  UnitDealer(const UnitDealer&) = delete;
  UnitDealer& operator=(const UnitDealer&) = delete;

  /// The number that was asked for last, and asks for the one after; nothing when all are dealt.
  std::optional<std::uint64_t> next();

  /// Lets MPI move what is under way; on rank 0, answers who has asked.
  void poll();

  /// Adds to the tiles that are done on all ranks together.
  void add_done(std::uint64_t tiles);

  /// Tiles done on all ranks so far. Only on rank 0.
  std::uint64_t done();

  /// No rank is dealt another number; what one has asked for already it still gets.
  void stop_all();

  /// Runs `work`, which takes numbers until there are none, then waits for all ranks. Where a
  /// signal asks to stop or `work` throws, no rank is dealt another number; the others end what
  /// they have in hand and have asked for, and all throw the error of the lowest rank that failed.
  /// Collective.
  /// @param meanwhile called a few times a second while it waits
  void run(const std::function<void()>& work, const std::function<void()>& meanwhile);

  /// Waits for all ranks, when this one takes no more numbers, without burning the processor that
  /// another rank may be computing on. Collective.
  /// @param meanwhile called a few times a second
  template <typename Work>
  void wait_for_all(Work meanwhile) {
    begin_wait();
    while (!wait_is_over()) meanwhile();
  }

 private:
  void ask();
  void serve();
  void tell_root(std::int64_t what);
  void begin_wait();
  bool wait_is_over();

  Communicator ranks_;
  std::uint64_t units_;
  std::int64_t asked_ = 0;  ///< the number that was asked for last, once it is there
  MPI_Request answer_ = MPI_REQUEST_NULL;
  MPI_Request wait_ = MPI_REQUEST_NULL;
  bool has_begun_to_wait_ = false;
  // On rank 0:
  std::int64_t next_ = 0;
  std::uint64_t done_ = 0;
  int waiting_ranks_ = 0;  ///< how many others take no more numbers
};

}  // namespace quadrat::mpi
