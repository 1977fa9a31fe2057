#include "quadrat/mpi/environment.h"

#include <fmt/format.h>
#include <mpi.h>

#include <array>
#include <cstdlib>
#include <exception>
#include <string_view>

#include "quadrat/base/error.h"
#include "quadrat/mpi/communicator.h"

namespace quadrat::mpi {

Environment::Environment() {
  // Open MPI's choice for MPI_Iallreduce sends everything to a root and back on two hosts, half as
  // fast as the cable, and goes through as many steps as there are ranks on many.
  ::setenv("OMPI_MCA_coll_libnbc_iallreduce_algorithm", "rabenseifner", /*overwrite=*/0);
  int provided = MPI_THREAD_SINGLE;
  check(MPI_Init_thread(nullptr, nullptr, MPI_THREAD_MULTIPLE, &provided), "MPI_Init_thread");
  check(MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN), "MPI_Comm_set_errhandler");
  if (provided < MPI_THREAD_MULTIPLE) {
    throw CommError("start MPI", "", "this MPI library has no MPI_THREAD_MULTIPLE",
                    "use an Open MPI built with thread support");
  }
}

Environment::~Environment() {
  if (std::uncaught_exceptions() > 0) return;  // cli::run decides between finalizing and aborting
  MPI_Finalize();
}

bool is_running() noexcept {
  int initialized = 0;
  int finalized = 0;
  MPI_Initialized(&initialized);
  MPI_Finalized(&finalized);
  return initialized != 0 && finalized == 0;
}

int launched_rank() noexcept {
  for (const char* name : {"OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK"}) {
    if (const char* text = std::getenv(name)) return std::atoi(text);
  }
  return 0;
}

std::string library() {
  std::array<char, MPI_MAX_LIBRARY_VERSION_STRING> text{};
  int length = 0;
  MPI_Get_library_version(text.data(), &length);
  // Where it was built and by whom comes after.
  const std::string_view name(text.data(), static_cast<std::size_t>(length));
  return std::string(name.substr(0, name.find_first_of(",\n")));
}

void abort(int status) noexcept {
  // Open MPI 4's mpirun crashes at one in forty calls of MPI_Abort, and its exit status is then not
  // the job's. It ends a job as well where a rank ends with a status of its own, without crashing.
  // Other launchers may let the other ranks go on.
  if (std::getenv("OMPI_COMMAND") == nullptr) MPI_Abort(MPI_COMM_WORLD, status);
  std::_Exit(status);
}

}  // namespace quadrat::mpi
