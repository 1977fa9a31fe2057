#pragma once

#include <string>

namespace quadrat::mpi {

/// MPI from here to the end of the scope: MPI_Init_thread with MPI_THREAD_MULTIPLE, errors returned
/// (and thrown as CommError) instead of aborting. A process that mpirun did not start becomes a
/// world of one rank.
class Environment {
 public:
  Environment();
  /// Finalizes, unless an exception is on its way that other ranks do not share: they would wait
  /// for ever.
  ~Environment();
  Environment(const Environment&) = delete;
  Environment& operator=(const Environment&) = delete;
};

/// Whether MPI is running in this process.
bool is_running() noexcept;

/// The rank mpirun or srun gave this process, read from its environment without starting MPI; 0
/// where there is none.
int launched_rank() noexcept;

/// The MPI standard's version that the library implements: "3.1".
std::string standard();

/// Ends every rank of the job with this status. Does not return.
[[noreturn]] void abort(int status) noexcept;

}  // namespace quadrat::mpi
