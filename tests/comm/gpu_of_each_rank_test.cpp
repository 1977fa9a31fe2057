#include "comm/backend/gpu_of_each_rank.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace quadrat::comm {
namespace {

Bytes gpu(int number) { return Bytes(16, static_cast<Bytes::value_type>(number)); }

TEST(GpuOfEachRank, may_be_any_that_no_other_has) {
  const auto ranks = mpi::Communicator::world();
  EXPECT_NO_THROW(require_a_gpu_for_each_rank(ranks, gpu(ranks.size() - ranks.rank())));
}

TEST(GpuOfEachRank, is_refused_on_all_ranks_where_two_share_one) {
  const auto ranks = mpi::Communicator::world();
  const int last = ranks.size() - 1;
  try {
    require_a_gpu_for_each_rank(ranks, gpu(ranks.rank() == last ? last - 1 : ranks.rank()));
    FAIL() << "nothing was refused";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kDevice);
    EXPECT_THAT(error.what(), testing::HasSubstr(fmt::format(
                                  "ranks {} and {} were given the same GPU", last - 1, last)));
  }
}

}  // namespace
}  // namespace quadrat::comm
