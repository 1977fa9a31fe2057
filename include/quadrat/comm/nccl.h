#pragma once

#include <memory>

#include "quadrat/comm/all_reduce.h"

/// The library quadrat::nccl, of builds with CUDA.

namespace quadrat::comm {

/// Over NCCL, for tensors on this rank's GPU, on a stream of its own. The NCCL id is made on rank 0
/// and sent by MPI. Where NCCL reports a failure, the communicator is aborted, so that what is
/// queued on the GPU ends, and CommError thrown, by poll(), wait() or settle(). A rank that is gone
/// without NCCL's noticing (killed, on the same host) is the mpi::Watchdog's to miss: it ends the
/// process whatever the other threads wait in. Collective. @throws Error of
/// kDevice where two ranks would share a GPU, c10::Error where there is none
std::unique_ptr<AllReduce> make_nccl_all_reduce(const mpi::Communicator& communicator,
                                                int device_index);

}  // namespace quadrat::comm
