#pragma once

#include <torch/torch.h>

#include <memory>

#include "quadrat/comm/all_reduce.h"
#include "quadrat/mpi/communicator.h"

/// What a training that uses GPUs begins with. In src/cuda, and null until choose_device() has
/// loaded it.

namespace quadrat {

/// From now on this thread's GPU work is queued on a stream of its own: the default stream, which
/// all others wait for, cannot be recorded. @throws DeviceError
inline void (*leave_default_stream)(torch::Device device) = nullptr;

/// comm::make_nccl_all_reduce, which programs for CPUs do without.
inline std::unique_ptr<comm::AllReduce> (*make_gpu_all_reduce)(const mpi::Communicator& ranks,
                                                               int device_index) = nullptr;

}  // namespace quadrat
