#pragma once

#include <torch/torch.h>

#include <memory>

#include "quadrat/mpi/communicator.h"

namespace quadrat::comm {

/// A sum over ranks that is under way.
class Pending {
 public:
  virtual ~Pending() = default;
  /// Moves the sum on where the backend needs the caller for that; never waits. @return whether it
  /// is done
  virtual bool poll() = 0;
  /// Returns when the tensor holds the sum (on a GPU: when the current stream may use it). @throws
  /// CommError
  virtual void wait() = 0;
};

/// Sums tensors over all ranks. Ranks must start the same sums in the same order.
class AllReduce {
 public:
  virtual ~AllReduce() = default;

  /// Starts `values` += the other ranks' values, in place. The tensor must be dense (any memory
  /// format, the same on every rank), float32, float64 or bfloat16, and stay alive and untouched
  /// until wait().
  virtual std::unique_ptr<Pending> start(torch::Tensor values) = 0;

  /// Call it before the host waits for the GPU in any other way (a value's item(), a copy to the
  /// host): returns when every sum started so far is done, or throws where one never will be, which
  /// CUDA's own waiting does not notice. On a CPU wait() has seen to that: nothing to do.
  /// @throws CommError
  virtual void settle() {}

  virtual int ranks() const = 0;
};

/// Over MPI, for tensors in host memory. Non-blocking: MPI moves data while the caller polls.
/// @param communicator is duplicated
std::unique_ptr<AllReduce> make_mpi_all_reduce(const mpi::Communicator& communicator);

/// Through memory that all ranks share, for ranks of one host: a gradient is read and written once,
/// where MPI copies it several times. Non-blocking like MPI. Summed in the order of ranks; bfloat16
/// is rounded once. Collective.
/// @throws UsageError where the ranks are on several hosts
std::unique_ptr<AllReduce> make_shared_memory_all_reduce(const mpi::Communicator& communicator);

/// The quicker of the two for tensors in host memory: shared memory on one host, MPI over several.
/// Collective.
std::unique_ptr<AllReduce> make_host_all_reduce(const mpi::Communicator& communicator);

}  // namespace quadrat::comm
