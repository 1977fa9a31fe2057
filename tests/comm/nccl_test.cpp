#include "quadrat/comm/nccl.h"

#include <gtest/gtest.h>

namespace quadrat::comm {
namespace {

TEST(Nccl, cannot_be_used_where_there_is_no_gpu) {
  if (torch::cuda::is_available()) GTEST_SKIP() << "this machine has a GPU; see tests/gpu";
  const auto ranks = mpi::Communicator::world();
  EXPECT_ANY_THROW(make_nccl_all_reduce(ranks, 0));
}

}  // namespace
}  // namespace quadrat::comm
