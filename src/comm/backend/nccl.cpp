#include "quadrat/comm/nccl.h"

#include <ATen/cuda/CUDAContext.h>
#include <ATen/cuda/CUDAEvent.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>

#include <cstring>
#include <memory>
#include <utility>

#include "gpu_of_each_rank.h"
#include "nccl_communicator.h"
#include "wait_until.h"

namespace quadrat::comm {

namespace {

/// What no other GPU has, on any host.
Bytes identity_of(c10::DeviceIndex device) {
  const auto* properties = at::cuda::getDeviceProperties(device);
  Bytes identity(sizeof properties->uuid);
  std::memcpy(identity.data(), &properties->uuid, identity.size());
  return identity;
}

class NcclAllReduce : public AllReduce {
 public:
  NcclAllReduce(const mpi::Communicator& ranks, c10::DeviceIndex device)
      : ranks_(ranks.size()),
        device_(device),
        stream_(c10::cuda::getStreamFromPool(/*isHighPriority=*/true, device)),
        communicator_(made_on(ranks, device)) {}

  std::unique_ptr<Pending> start(torch::Tensor values) override;
  int ranks() const override { return ranks_; }

  void settle() override {
    if (!last_) return;
    wait_until([&] { return last_->query(); }, [&] { communicator_->check_asynchronous(); });
    last_.reset();
    communicator_->check_asynchronous();
  }

 private:
  static std::unique_ptr<NcclCommunicator> made_on(const mpi::Communicator& ranks,
                                                   c10::DeviceIndex device) {
    require_a_gpu_for_each_rank(ranks, identity_of(device));
    const c10::cuda::CUDAGuard guard(device);
    return std::make_unique<NcclCommunicator>(ranks);
  }

  int ranks_;
  c10::DeviceIndex device_;
  c10::cuda::CUDAStream stream_;
  std::unique_ptr<NcclCommunicator> communicator_;
  std::shared_ptr<at::cuda::CUDAEvent> last_;  ///< when the sums started so far are done
};

class NcclPending : public Pending {
 public:
  NcclPending(NcclCommunicator& communicator, std::shared_ptr<at::cuda::CUDAEvent> done)
      : communicator_(communicator), done_(std::move(done)) {}

  bool poll() override {
    communicator_.check_asynchronous();
    return done_->query();
  }

  /// Makes the current stream wait, not the host, which goes on queueing work.
  void wait() override {
    communicator_.check_asynchronous();
    done_->block(c10::cuda::getCurrentCUDAStream());
  }

 private:
  NcclCommunicator& communicator_;
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
  const c10::cuda::CUDAGuard guard(device_);
  at::cuda::CUDAEvent ready;
  ready.record(c10::cuda::getCurrentCUDAStream());
  ready.block(stream_);
  // The allocator must not hand this memory on before the stream is through with it.
  values.record_stream(stream_);
  communicator_->all_reduce(values.data_ptr(), static_cast<std::size_t>(values.numel()), type,
                            stream_.stream());
  // The stream does one sum after the other: the last one's event is all of theirs.
  last_ = std::make_shared<at::cuda::CUDAEvent>();
  last_->record(stream_);
  return std::make_unique<NcclPending>(*communicator_, last_);
}

}  // namespace

std::unique_ptr<AllReduce> make_nccl_all_reduce(const mpi::Communicator& communicator,
                                                int device_index) {
  return std::make_unique<NcclAllReduce>(communicator, static_cast<c10::DeviceIndex>(device_index));
}

}  // namespace quadrat::comm
