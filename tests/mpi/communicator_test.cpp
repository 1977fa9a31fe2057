#include "quadrat/mpi/communicator.h"

#include <gtest/gtest.h>
#include <sched.h>

#include <algorithm>
#include <array>
#include <csignal>
#include <numeric>
#include <vector>

#include "quadrat/base/error.h"
#include "quadrat/base/signals.h"
#include "quadrat/mpi/processors.h"

namespace quadrat::mpi {
namespace {

TEST(Communicator, broadcast_reaches_every_rank_from_any_root) {
  const auto ranks = Communicator::world();
  for (int root = 0; root < ranks.size(); ++root) {
    const std::string text = ranks.broadcast(
        ranks.rank() == root ? std::string("from ") + std::to_string(root) : "", root);
    EXPECT_EQ(text, "from " + std::to_string(root));
  }
}

TEST(Communicator, gather_brings_parts_of_any_size_in_rank_order) {
  const auto ranks = Communicator::world();
  const Bytes mine(static_cast<std::size_t>(ranks.rank()) * 3,
                   static_cast<std::byte>(ranks.rank()));
  const auto all = ranks.gather(mine);
  if (!ranks.is_root()) {
    EXPECT_TRUE(all.empty());
    return;
  }
  ASSERT_EQ(all.size(), static_cast<std::size_t>(ranks.size()));
  for (std::size_t r = 0; r < all.size(); ++r)
    EXPECT_EQ(all[r], Bytes(r * 3, static_cast<std::byte>(r)));
}

TEST(Communicator, gather_parts_brings_each_ranks_place_to_the_root) {
  const auto ranks = Communicator::world();
  // Of rank r: r + 1 bytes, so that places begin at 0, 1, 3, 6, ...
  std::vector<std::size_t> bounds{0};
  for (int r = 0; r < ranks.size(); ++r) bounds.push_back(bounds.back() + std::size_t(r) + 1);
  const int root = ranks.size() - 1;
  const auto mine = static_cast<std::byte>(ranks.rank());
  Bytes bytes(bounds.back(), static_cast<std::byte>(99));
  for (std::size_t i = bounds[std::size_t(ranks.rank())]; i < bounds[std::size_t(ranks.rank()) + 1];
       ++i)
    bytes[i] = mine;
  const Bytes before = bytes;
  ranks.gather_parts(bytes, bounds, root);
  if (ranks.rank() != root) {
    EXPECT_EQ(bytes, before);
    return;
  }
  for (int r = 0; r < ranks.size(); ++r) {
    for (std::size_t i = bounds[std::size_t(r)]; i < bounds[std::size_t(r) + 1]; ++i)
      EXPECT_EQ(bytes[i], static_cast<std::byte>(r)) << i;
  }
}

TEST(Communicator, deals_things_in_rank_order_and_gathers_them_so) {
  const auto ranks = Communicator::world();
  EXPECT_EQ(ranks.hosts(), 1);
  for (const std::size_t count :
       {std::size_t{0}, std::size_t{1}, std::size_t{10}, std::size_t{11}}) {
    const auto [first, last] = ranks.share_of(count);
    EXPECT_LE(last - first, count / std::size_t(ranks.size()) + 1);
    EXPECT_GE(last - first, count / std::size_t(ranks.size()));
    std::vector<double> mine(last - first), all(count);
    std::iota(mine.begin(), mine.end(), static_cast<double>(first));
    std::iota(all.begin(), all.end(), 0.0);
    EXPECT_EQ(ranks.gather_values(mine), ranks.is_root() ? all : std::vector<double>());
  }
}

TEST(Communicator, reductions) {
  const auto ranks = Communicator::world();
  const int n = ranks.size();
  std::array<double, 2> values{1.0, static_cast<double>(ranks.rank())};
  ranks.sum(values);
  EXPECT_EQ(values[0], n);
  EXPECT_EQ(values[1], n * (n - 1) / 2);
  EXPECT_EQ(ranks.max(ranks.rank()), n - 1);
  EXPECT_EQ(ranks.min(std::int64_t{5} + ranks.rank()), 5);
}

/// Runs on these processors, or as many of them as there are. @return how many
int run_on(const cpu_set_t& wanted) {
  EXPECT_EQ(sched_setaffinity(0, sizeof wanted, &wanted), 0);
  cpu_set_t given;
  EXPECT_EQ(sched_getaffinity(0, sizeof given, &given), 0);
  return CPU_COUNT(&given);
}

TEST(StopIfAsked, ends_all_ranks_where_one_was_told_to) {
  const auto ranks = Communicator::world();
  stop_if_asked(ranks);
  if (ranks.rank() == ranks.size() - 1) set_stop_signal(SIGTERM);
  try {
    stop_if_asked(ranks);
    FAIL() << "this rank goes on";
  } catch (const Error& error) {
    EXPECT_EQ(exit_status(error.kind()), kExitInterrupted);
    EXPECT_TRUE(error.is_shared());
  }
  set_stop_signal(0);
}

TEST(Processors, are_those_a_rank_may_run_on_shared_with_the_others_there) {
  const auto ranks = Communicator::world();
  cpu_set_t before, one, all;
  ASSERT_EQ(sched_getaffinity(0, sizeof before, &before), 0);
  CPU_ZERO(&one);
  CPU_ZERO(&all);
  for (int i = 0; i < CPU_SETSIZE; ++i) CPU_SET(i, &all);
  const int there = run_on(all);
  Processors found = processors_of(ranks);
  EXPECT_EQ(found.per_rank, std::max(1, there / ranks.size()));
  EXPECT_EQ(found.of_ranks, there);

  CPU_SET(0, &one);
  run_on(one);
  found = processors_of(ranks);
  EXPECT_EQ(found.per_rank, 1);
  EXPECT_EQ(found.of_ranks, 1);

  // Rank 0 alone on one: the others share all.
  run_on(ranks.is_root() ? one : all);
  found = processors_of(ranks);
  EXPECT_EQ(found.per_rank, ranks.is_root() ? 1 : std::max(1, there / (ranks.size() - 1)));
  run_on(before);
}

TEST(Communicator, moved_from_ones_are_null_and_freed_once) {
  auto first = Communicator::world();
  Communicator second = std::move(first);
  EXPECT_EQ(first.get(), MPI_COMM_NULL);  // NOLINT: that is what is tested
  second.barrier();
}

TEST(Together, passes_where_nobody_fails) {
  const auto ranks = Communicator::world();
  EXPECT_NO_THROW(together(ranks, [] {}));
}

TEST(Together, all_throw_the_lowest_failing_ranks_error) {
  const auto ranks = Communicator::world();
  const int last = ranks.size() - 1;
  try {
    together(ranks, [&] {
      if (ranks.rank() == last) throw InputError("read", "x.png", "it is cut short");
    });
    FAIL() << "rank " << ranks.rank() << " went on alone";
  } catch (const Error& error) {
    EXPECT_STREQ(error.what(), "cannot read 'x.png': it is cut short");
    EXPECT_EQ(error.kind(), ErrorKind::kInput);
    EXPECT_TRUE(error.is_shared());
  }
  ranks.barrier();
}

}  // namespace
}  // namespace quadrat::mpi
