#pragma once

#include <string>

namespace quadrat::mpi {

/// MPI from here to the end of the scope: MPI_Init_thread with MPI_THREAD_MULTIPLE, errors returned
/// (and thrown as CommError) instead of aborting. A process that mpirun did not start becomes a
/// world of one rank.
class Environment {
 public:
  Environment();
  /// Finalizes, unless an exception is on its way: where other ranks do not share it they would be
  /// waited for for ever, and cli::run knows.
  ~Environment();
  Environment(const Environment&) = delete;
  Environment& operator=(const Environment&) = delete;
};

/// Whether MPI is running in this process.
bool is_running() noexcept;

/// The rank mpirun or srun gave this process, read from its environment without starting MPI; 0
/// where there is none.
int launched_rank() noexcept;

/// "Open MPI v4.1.4": the library and its version, as it calls itself.
std::string library();

/// Ends every rank of the job with this status. Does not return.
[[noreturn]] void abort(int status) noexcept;

}  // namespace quadrat::mpi
