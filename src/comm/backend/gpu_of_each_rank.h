#pragma once

#include <fmt/format.h>

#include <cstddef>
#include <map>
#include <string>
#include <vector>

#include "quadrat/base/error.h"
#include "quadrat/mpi/communicator.h"

namespace quadrat::comm {

/// Two ranks on one GPU would wait for each other inside NCCL for ever; say so before it is asked.
/// Collective. @param gpu what no other GPU has: this rank's @throws Error of kDevice, on every
/// rank
inline void require_a_gpu_for_each_rank(const mpi::Communicator& ranks, const Bytes& gpu) {
  const std::vector<Bytes> all = ranks.gather(gpu);
  mpi::together(ranks, [&] {
    std::map<std::string, std::size_t> first;
    for (std::size_t rank = 0; rank < all.size(); ++rank) {
      const auto [it, added] = first.emplace(
          std::string(reinterpret_cast<const char*>(all[rank].data()), all[rank].size()), rank);
      if (!added) {
        throw DeviceError("use one GPU a rank", "",
                          fmt::format("ranks {} and {} were given the same GPU", it->second, rank),
                          "start as many ranks on each node as it has GPUs");
      }
    }
  });
}

}  // namespace quadrat::comm
