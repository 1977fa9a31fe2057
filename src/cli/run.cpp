#include <fmt/format.h>
#include <mpi.h>

#include <cerrno>
#include <cstdio>
#include <exception>
#include <string>
#include <system_error>

#include "quadrat/base/error.h"
#include "quadrat/base/log.h"
#include "quadrat/base/text.h"
#include "quadrat/cli/parser.h"
#include "quadrat/mpi/environment.h"

namespace quadrat::cli {

namespace {

/// Prints once and ends: all ranks in step where all have the error, by force where only some do.
int fail(const std::string& message, int status, bool shared) {
  const bool under_mpi = mpi::is_running();
  int size = 1;
  int rank = mpi::launched_rank();
  if (under_mpi) {
    MPI_Comm_size(MPI_COMM_WORLD, &size);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  }
  // Before MPI starts every rank finds the same fault in the same command line.
  const bool everybody_has_it = shared || !under_mpi;
  if (!everybody_has_it || rank == 0) log::write("error: " + message);
  if (!under_mpi) return status;
  if (!everybody_has_it && size > 1) mpi::abort(status);
  MPI_Finalize();
  return status;
}

}  // namespace

UsageError unknown_command(const std::string& word, const std::vector<std::string>& known) {
  const std::string near = closest(word, known);
  return UsageError(
      fmt::format("there is no command '{}'; {}", printable(word),
                  near.empty() ? "--help lists what there is" : "did you mean " + near + "?"));
}

int run(Parser& parser, int argc, const char* const* argv, const std::function<int()>& body) {
  log::set_origin(parser.program());
  try {
    const int status = parser.parse(argc, argv) ? body() : kExitDone;
    if (std::fflush(stdout) != 0) throw IoError::from_errno("write", "standard output");
    if (std::ferror(stdout) != 0)
      throw IoError("write", "standard output", "some of the result is lost", "start again");
    return status;
  } catch (const Error& error) {
    return fail(error.what(), exit_status(error.kind()), error.is_shared());
  } catch (const std::system_error& error) {
    // fmt's, where a print falls short.
    if (std::ferror(stdout) == 0) return fail(message_of(error), kExitFailed, false);
    errno = error.code().value();
    return fail(IoError::from_errno("write", "standard output").what(), kExitFailed, false);
  } catch (const std::exception& error) {
    return fail(message_of(error), kExitFailed, false);
  }
}

}  // namespace quadrat::cli
