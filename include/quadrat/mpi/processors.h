#pragma once

#include "quadrat/mpi/communicator.h"

namespace quadrat::mpi {

/// Processors of this host. What a process may run on is less than what the host has where a batch
/// system gave the job a part of it, or where mpirun bound its ranks.
struct Processors {
  int per_rank = 1;     ///< this rank's, shared fairly with ranks that may run on the same
  int of_ranks = 1;     ///< all that any rank of this host may run on
  int of_launcher = 0;  ///< what the mpirun that started this rank may itself run on; 0: no mpirun
};

/// Collective.
Processors processors_of(const Communicator& ranks);

}  // namespace quadrat::mpi
