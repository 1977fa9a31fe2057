#pragma once

#include <torch/torch.h>

#include <string_view>

#include "quadrat/mpi/communicator.h"

namespace quadrat {

/// What a rank computes on: the CPU, or the GPU that is its turn among those of its host. All ranks
/// get the same kind. Where a GPU may be used it loads src/cuda, whose functions are null before:
/// call it before LibTorch is asked for GPUs, whose answer it keeps. Collective.
/// @param wish auto (GPUs where every rank has one), cpu or cuda
/// @throws DeviceError, shared, where cuda is wished for and a rank has no GPU, or this build no
/// part for one
torch::Device choose_device(std::string_view wish, const mpi::Communicator& ranks);

}  // namespace quadrat
