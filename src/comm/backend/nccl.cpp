#include "quadrat/comm/nccl.h"

#include <ATen/cuda/CUDAContext.h>
#include <ATen/cuda/CUDAEvent.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <fmt/format.h>
#include <nccl.h>

#include <cstring>
#include <memory>
#include <string>
#include <utility>

#include "gpu_of_each_rank.h"
#include "quadrat/base/error.h"
#include "wait_until.h"

namespace quadrat::comm {

namespace {

void check_nccl(ncclResult_t result, const char* call, ncclComm_t comm = nullptr) {
  if (result == ncclSuccess || result == ncclInProgress) return;
  throw CommError(
      "exchange data with the other GPUs", "",
      fmt::format("{} reported {} ({})", call, ncclGetErrorString(result), ncclGetLastError(comm)),
      "see whether a GPU, a node or the network failed, then start the same command again");
}

/// What no other GPU has, on any host.
Bytes identity_of(c10::DeviceIndex device) {
  const auto* properties = at::cuda::getDeviceProperties(device);
  Bytes identity(sizeof properties->uuid);
  std::memcpy(identity.data(), &properties->uuid, identity.size());
  return identity;
}

class NcclAllReduce : public AllReduce {
 public:
  NcclAllReduce(const mpi::Communicator& ranks, int device_index)
      : ranks_(ranks.size()),
        device_(static_cast<c10::DeviceIndex>(device_index)),
        stream_(c10::cuda::getStreamFromPool(/*isHighPriority=*/true, device_)) {
    require_a_gpu_for_each_rank(ranks, identity_of(device_));
    const c10::cuda::CUDAGuard guard(device_);
    ncclUniqueId id{};
    mpi::together(ranks, [&] {
      if (ranks.is_root()) check_nccl(ncclGetUniqueId(&id), "ncclGetUniqueId");
    });
    Bytes bytes(sizeof id);
    std::memcpy(bytes.data(), &id, sizeof id);
    bytes = ranks.broadcast(std::move(bytes));
    std::memcpy(&id, bytes.data(), sizeof id);
    mpi::together(ranks, [&] {
      check_nccl(ncclCommInitRank(&comm_, ranks.size(), id, ranks.rank()), "ncclCommInitRank");
    });
  }

  ~NcclAllReduce() override {
    // Destroying waits for the other ranks; while an exception unwinds, one of them may be gone.
    if (comm_ == nullptr) return;
    if (std::uncaught_exceptions() > 0) {
      ncclCommAbort(comm_);
    } else {
      ncclCommDestroy(comm_);
    }
  }

  std::unique_ptr<Pending> start(torch::Tensor values) override;
  int ranks() const override { return ranks_; }

  void settle() override {
    if (!last_) return;
    wait_until([&] { return last_->query(); }, [&] { check_asynchronous(); });
    last_.reset();
    check_asynchronous();
  }

  /// Work that was queued may fail later; then nothing on the stream ever finishes, so abort
  /// instead of waiting.
  void check_asynchronous() {
    require_communicator();
    ncclResult_t result = ncclSuccess;
    check_nccl(ncclCommGetAsyncError(comm_, &result), "ncclCommGetAsyncError", comm_);
    if (result == ncclSuccess || result == ncclInProgress) return;
    const std::string text = ncclGetLastError(comm_);
    ncclCommAbort(std::exchange(comm_, nullptr));
    throw CommError(
        "exchange data with the other GPUs", "",
        fmt::format("{} ({})", ncclGetErrorString(result), text),
        "another rank or the network between the nodes failed; start the same command again");
  }

 private:
  void require_communicator() const {
    if (comm_ != nullptr) return;
    throw CommError("exchange data with the other GPUs", "", "an earlier exchange failed",
                    "start the same command again");
  }

  int ranks_;
  c10::DeviceIndex device_;
  c10::cuda::CUDAStream stream_;
  ncclComm_t comm_ = nullptr;
  std::shared_ptr<at::cuda::CUDAEvent> last_;  ///< when the sums started so far are done
};

class NcclPending : public Pending {
 public:
  NcclPending(NcclAllReduce& owner, std::shared_ptr<at::cuda::CUDAEvent> done)
      : owner_(owner), done_(std::move(done)) {}

  bool poll() override {
    owner_.check_asynchronous();
    return done_->query();
  }

  /// Makes the current stream wait, not the host, which goes on queueing work.
  void wait() override {
    owner_.check_asynchronous();
    done_->block(c10::cuda::getCurrentCUDAStream());
  }

 private:
  NcclAllReduce& owner_;
  std::shared_ptr<at::cuda::CUDAEvent> done_;
};

std::unique_ptr<Pending> NcclAllReduce::start(torch::Tensor values) {
  TORCH_CHECK(values.is_cuda() && values.is_non_overlapping_and_dense(), "a dense tensor on a GPU");
  ncclDataType_t type = ncclFloat;
  switch (values.scalar_type()) {
    case torch::kFloat:
      break;
    case torch::kDouble:
      type = ncclDouble;
      break;
    case torch::kBFloat16:
      type = ncclBfloat16;
      break;
    default:
      TORCH_CHECK(false, "no NCCL sum for ", values.scalar_type());
  }
  require_communicator();
  const c10::cuda::CUDAGuard guard(device_);
  at::cuda::CUDAEvent ready;
  ready.record(c10::cuda::getCurrentCUDAStream());
  ready.block(stream_);
  // The allocator must not hand this memory on before the stream is through with it.
  values.record_stream(stream_);
  check_nccl(
      ncclAllReduce(values.data_ptr(), values.data_ptr(), static_cast<std::size_t>(values.numel()),
                    type, ncclSum, comm_, stream_.stream()),
      "ncclAllReduce", comm_);
  // The stream does one sum after the other: the last one's event is all of theirs.
  last_ = std::make_shared<at::cuda::CUDAEvent>();
  last_->record(stream_);
  return std::make_unique<NcclPending>(*this, last_);
}

}  // namespace

std::unique_ptr<AllReduce> make_nccl_all_reduce(const mpi::Communicator& communicator,
                                                int device_index) {
  return std::make_unique<NcclAllReduce>(communicator, device_index);
}

}  // namespace quadrat::comm
