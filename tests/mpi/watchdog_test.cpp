#include "quadrat/mpi/watchdog.h"

#include <gtest/gtest.h>

#include <chrono>
#include <thread>

namespace quadrat::mpi {
namespace {

TEST(Watchdog, leaves_a_rank_alone_that_works_without_calling_mpi_or_comes_late_to_the_end) {
  const auto ranks = Communicator::world();
  {
    const Watchdog watchdog(ranks, 0.5);
    if (ranks.rank() == ranks.size() - 1)
      std::this_thread::sleep_for(std::chrono::milliseconds(1500));
  }
  ranks.barrier();
}

TEST(Watchdog, may_be_made_again_and_switched_off) {
  const auto ranks = Communicator::world();
  for (const double limit_s : {1.0, 0.0, 1.0}) {
    const Watchdog watchdog(ranks, limit_s);
    ranks.barrier();
  }
}

}  // namespace
}  // namespace quadrat::mpi
