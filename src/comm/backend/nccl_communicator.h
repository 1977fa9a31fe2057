#pragma once

#include <fmt/format.h>
#include <nccl.h>

#include <cstring>
#include <exception>
#include <string>
#include <utility>

#include "quadrat/base/error.h"
#include "quadrat/mpi/communicator.h"

namespace quadrat::comm {

/// NCCL's communicator of all ranks. What fails is said in words and aborts it: nothing queued goes
/// on waiting, and nothing more can be queued. Only ncclCommInitRank waits for ranks that never
/// come; that is the mpi::Watchdog's to miss.
class NcclCommunicator {
 public:
  /// The id is made on rank 0 and sent by MPI. Collective. @throws Error of kComm on every rank
  /// where any of them fails
  explicit NcclCommunicator(const mpi::Communicator& ranks) {
    ncclUniqueId id{};
    mpi::together(ranks, [&] {
      if (ranks.is_root()) check(ncclGetUniqueId(&id), "ncclGetUniqueId");
    });
    Bytes bytes(sizeof id);
    std::memcpy(bytes.data(), &id, sizeof id);
    bytes = ranks.broadcast(std::move(bytes));
    std::memcpy(&id, bytes.data(), sizeof id);
    try {
      mpi::together(ranks, [&] {
        check(ncclCommInitRank(&comm_, ranks.size(), id, ranks.rank()), "ncclCommInitRank");
      });
    } catch (...) {
      abort();
      throw;
    }
  }

  NcclCommunicator(const NcclCommunicator&) = delete;
  NcclCommunicator& operator=(const NcclCommunicator&) = delete;

  ~NcclCommunicator() {
    // Destroying waits for the other ranks; while an exception unwinds, one of them may be gone.
    if (std::uncaught_exceptions() > 0) {
      abort();
    } else if (comm_ != nullptr) {
      ncclCommDestroy(comm_);
    }
  }

  /// Queued on the stream, in place, summed. @throws CommError
  void all_reduce(void* values, std::size_t count, ncclDataType_t type, cudaStream_t stream) {
    require();
    check(ncclAllReduce(values, values, count, type, ncclSum, comm_, stream), "ncclAllReduce");
  }

  /// Work that was queued may fail later; then nothing on the stream ever finishes, so this ends
  /// it.
  /// @throws CommError where it has failed
  void check_asynchronous() {
    require();
    ncclResult_t result = ncclSuccess;
    check(ncclCommGetAsyncError(comm_, &result), "ncclCommGetAsyncError");
    if (result == ncclSuccess || result == ncclInProgress) return;
    fail(fmt::format("{} ({})", ncclGetErrorString(result), ncclGetLastError(comm_)),
         "another rank or the network between the nodes failed; start the same command again");
  }

 private:
  static constexpr const char* kAction = "exchange data with the other GPUs";

  void check(ncclResult_t result, const char* call) {
    if (result == ncclSuccess || result == ncclInProgress) return;
    fail(fmt::format("{} reported {} ({})", call, ncclGetErrorString(result),
                     ncclGetLastError(comm_)),
         "see whether a GPU, a node or the network failed, then start the same command again");
  }

  [[noreturn]] void fail(const std::string& finding, const char* remedy) {
    abort();
    throw CommError(kAction, "", finding, remedy);
  }

  void require() const {
    if (comm_ != nullptr) return;
    throw CommError(kAction, "", "an earlier exchange failed", "start the same command again");
  }

  void abort() {
    if (comm_ != nullptr) ncclCommAbort(std::exchange(comm_, nullptr));
  }

  ncclComm_t comm_ = nullptr;
};

}  // namespace quadrat::comm
