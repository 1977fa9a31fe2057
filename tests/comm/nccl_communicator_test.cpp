// What becomes of NCCL's failures, on ranks without a GPU: an NCCL that does as it is told.
#include "comm/backend/nccl_communicator.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <stdexcept>
#include <string>

namespace {

struct Told {
  ncclResult_t unique_id = ncclSuccess, init = ncclSuccess, all_reduce = ncclSuccess,
               asynchronous = ncclSuccess;
};

struct Seen {
  int ids = 0, sums = 0, aborted = 0, destroyed = 0;
  std::string id;
};

Told told;
Seen seen;
int communicator = 0;  // of which only the address counts

}  // namespace

ncclResult_t ncclGetUniqueId(ncclUniqueId* id) {
  int rank = 0;
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  std::memset(id->internal, 'a' + rank, sizeof id->internal);
  ++seen.ids;
  return told.unique_id;
}

ncclResult_t ncclCommInitRank(ncclComm_t* comm, int /*ranks*/, ncclUniqueId id, int /*rank*/) {
  seen.id.assign(id.internal, sizeof id.internal);
  if (told.init == ncclSuccess) *comm = reinterpret_cast<ncclComm_t>(&communicator);
  return told.init;
}

ncclResult_t ncclAllReduce(const void* /*from*/, void* /*to*/, std::size_t /*count*/,
                           ncclDataType_t /*type*/, ncclRedOp_t /*op*/, ncclComm_t /*comm*/,
                           cudaStream_t /*stream*/) {
  ++seen.sums;
  return told.all_reduce;
}

ncclResult_t ncclCommGetAsyncError(ncclComm_t /*comm*/, ncclResult_t* result) {
  *result = told.asynchronous;
  return ncclSuccess;
}

ncclResult_t ncclCommAbort(ncclComm_t /*comm*/) {
  ++seen.aborted;
  return ncclSuccess;
}

ncclResult_t ncclCommDestroy(ncclComm_t /*comm*/) {
  ++seen.destroyed;
  return ncclSuccess;
}

const char* ncclGetErrorString(ncclResult_t result) {
  return result == ncclRemoteError ? "remote process exited" : "unhandled system error";
}

const char* ncclGetLastError(ncclComm_t /*comm*/) { return "connection closed by peer"; }

namespace quadrat::comm {
namespace {

using testing::AllOf;
using testing::HasSubstr;

class Nccl : public testing::Test {
 protected:
  Nccl() {
    told = {};
    seen = {};
  }
  const mpi::Communicator ranks = mpi::Communicator::world();
  const bool is_last = ranks.rank() == ranks.size() - 1;
};

/// @return the message of the Error of kComm that `work` throws
template <typename Work>
std::string failure_of(const Work& work) {
  try {
    work();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kComm);
    return error.what();
  }
  return "nothing was thrown";
}

TEST_F(Nccl, all_ranks_have_rank_0s_id_and_part_in_peace) {
  {
    NcclCommunicator nccl(ranks);
    float value = 0;
    nccl.all_reduce(&value, 1, ncclFloat, nullptr);
    nccl.check_asynchronous();
  }
  EXPECT_EQ(seen.id, std::string(sizeof(ncclUniqueId), 'a'));
  EXPECT_EQ(seen.ids, ranks.is_root() ? 1 : 0);
  EXPECT_EQ(seen.sums, 1);
  EXPECT_EQ(seen.destroyed, 1);
  EXPECT_EQ(seen.aborted, 0);
}

TEST_F(Nccl, a_failure_of_rank_0s_id_is_every_ranks) {
  if (ranks.is_root()) told.unique_id = ncclSystemError;
  EXPECT_THAT(failure_of([&] { NcclCommunicator nccl(ranks); }),
              AllOf(HasSubstr("ncclGetUniqueId"), HasSubstr("unhandled system error"),
                    HasSubstr("connection closed by peer")));
}

TEST_F(Nccl, where_one_rank_is_told_that_it_does_not_get_in_the_others_leave) {
  if (is_last) told.init = ncclSystemError;
  EXPECT_THAT(failure_of([&] { NcclCommunicator nccl(ranks); }), HasSubstr("ncclCommInitRank"));
  EXPECT_EQ(seen.aborted, is_last ? 0 : 1);
  EXPECT_EQ(seen.destroyed, 0);
}

TEST_F(Nccl, a_sum_that_cannot_be_queued_is_said) {
  NcclCommunicator nccl(ranks);
  told.all_reduce = ncclSystemError;
  EXPECT_THAT(failure_of([&] { nccl.all_reduce(nullptr, 0, ncclFloat, nullptr); }),
              HasSubstr("ncclAllReduce reported unhandled system error"));
  EXPECT_EQ(seen.aborted, 1);
}

TEST_F(Nccl, what_is_still_under_way_has_not_failed) {
  NcclCommunicator nccl(ranks);
  told.asynchronous = told.all_reduce = ncclInProgress;
  EXPECT_NO_THROW(nccl.all_reduce(nullptr, 0, ncclFloat, nullptr));
  EXPECT_NO_THROW(nccl.check_asynchronous());
}

TEST_F(Nccl, a_later_failure_ends_what_is_queued_once_and_for_all) {
  {
    NcclCommunicator nccl(ranks);
    told.asynchronous = ncclRemoteError;
    EXPECT_THAT(failure_of([&] { nccl.check_asynchronous(); }),
                HasSubstr("remote process exited (connection closed by peer)"));
    EXPECT_EQ(seen.aborted, 1);
    told.asynchronous = ncclSuccess;
    EXPECT_THAT(failure_of([&] { nccl.check_asynchronous(); }), HasSubstr("earlier exchange"));
    EXPECT_THAT(failure_of([&] { nccl.all_reduce(nullptr, 0, ncclFloat, nullptr); }),
                HasSubstr("earlier exchange"));
    EXPECT_EQ(seen.sums, 0);
  }
  EXPECT_EQ(seen.aborted, 1);
  EXPECT_EQ(seen.destroyed, 0);
}

/// Destroying waits for the other ranks, of which one may be gone.
TEST_F(Nccl, an_error_elsewhere_leaves_without_waiting_for_others) {
  try {
    NcclCommunicator nccl(ranks);
    throw std::runtime_error("the disk is full");
  } catch (const std::runtime_error&) {
  }
  EXPECT_EQ(seen.aborted, 1);
  EXPECT_EQ(seen.destroyed, 0);
}

}  // namespace
}  // namespace quadrat::comm
