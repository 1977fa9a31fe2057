#include "quadrat/mpi/unit_dealer.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <string>
#include <thread>
#include <vector>

#include "quadrat/base/error.h"

namespace quadrat::mpi {
namespace {

constexpr std::uint64_t kUnits = 60;

void work_for(std::chrono::milliseconds time, UnitDealer& dealer) {
  const auto end = std::chrono::steady_clock::now() + time;
  while (std::chrono::steady_clock::now() < end) {
    dealer.poll();
    std::this_thread::sleep_for(std::chrono::microseconds(200));
  }
}

TEST(UnitDealer, deals_every_number_to_one_rank) {
  const auto ranks = Communicator::world();
  std::vector<double> taken(kUnits);
  std::uint64_t done = 0;
  {
    UnitDealer dealer(ranks, kUnits);
    while (const auto unit = dealer.next()) {
      taken.at(*unit) += 1;
      dealer.add_done(2);
    }
    dealer.wait_for_all([] {});
    if (ranks.is_root()) done = dealer.done();
  }
  ranks.sum(taken);
  EXPECT_EQ(taken, std::vector<double>(kUnits, 1.0));
  if (ranks.is_root()) {
    EXPECT_EQ(done, 2 * kUnits);
  }
}

TEST(UnitDealer, gives_less_to_a_slow_rank) {
  const auto ranks = Communicator::world();
  const bool is_slow = ranks.rank() == 1;
  std::int64_t mine = 0;
  UnitDealer dealer(ranks, kUnits);
  while (dealer.next()) {
    ++mine;
    work_for(std::chrono::milliseconds(is_slow ? 100 : 2), dealer);
  }
  dealer.wait_for_all([] {});
  EXPECT_EQ(ranks.sum(mine), static_cast<std::int64_t>(kUnits));
  if (is_slow) {
    EXPECT_LT(mine, static_cast<std::int64_t>(kUnits) / ranks.size());
  }
}

/// Waits for all ranks to come here, while rank 0 goes on answering.
void meet(const Communicator& ranks, UnitDealer& dealer) {
  MPI_Request request = MPI_REQUEST_NULL;
  MPI_Ibarrier(ranks.get(), &request);
  for (int is_over = 0; is_over == 0;) {
    dealer.poll();
    MPI_Test(&request, &is_over, MPI_STATUS_IGNORE);
  }
}

TEST(UnitDealer, an_error_of_some_ranks_ends_the_dealing_and_is_told_alike_on_all) {
  const auto ranks = Communicator::world();
  const int first_to_fail = ranks.size() / 2;
  UnitDealer dealer(ranks, kUnits);
  std::int64_t mine = 0;
  const auto work = [&] {
    while (dealer.next()) {
      // Before one of them fails, all that will have a number.
      if (++mine == 1) meet(ranks, dealer);
      work_for(std::chrono::milliseconds(2), dealer);
      if (ranks.rank() >= first_to_fail) {
        throw InputError("read", fmt::format("file of rank {}", ranks.rank()), "it is cut short");
      }
    }
  };
  std::string told;
  try {
    dealer.run(work, [] {});
  } catch (const Error& error) {
    told = error.what();
  }
  EXPECT_THAT(told, testing::HasSubstr(fmt::format("file of rank {}", first_to_fail)));
  // Those that did not fail stop too, long before they have done all the rest.
  EXPECT_LT(ranks.sum(mine), static_cast<std::int64_t>(kUnits) / 2);
}

TEST(UnitDealer, deals_nothing_once_a_rank_has_stopped_it) {
  const auto ranks = Communicator::world();
  UnitDealer dealer(ranks, kUnits);
  if (ranks.rank() == ranks.size() - 1) dealer.stop_all();
  ranks.barrier();
  // One number was asked for before it was stopped.
  std::int64_t mine = 0;
  while (dealer.next()) ++mine;
  EXPECT_LE(mine, 1);
  dealer.wait_for_all([] {});
}

}  // namespace
}  // namespace quadrat::mpi
