#include "quadrat/base/folder_lock.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <chrono>
#include <string>
#include <thread>

#include "quadrat/base/clock.h"
#include "quadrat/base/error.h"
#include "quadrat/base/log.h"
#include "quadrat/base/signals.h"
#include "quadrat/base/text.h"

namespace quadrat {

namespace {

constexpr std::chrono::seconds kPatienceHere{5};
constexpr std::chrono::seconds kPatienceElsewhere{120};

/// Whether the name still leads to the open file: its last owner removes it before letting go.
bool is_still_there(int descriptor, const Path& path) {
  struct stat open_file {};
  struct stat named {};
  return ::fstat(descriptor, &open_file) == 0 && ::stat(path.c_str(), &named) == 0 &&
         open_file.st_ino == named.st_ino && open_file.st_dev == named.st_dev;
}

std::string owner_of(int descriptor) {
  std::array<char, 512> text{};
  const ssize_t size = ::pread(descriptor, text.data(), text.size(), 0);
  return {text.data(), size > 0 ? static_cast<std::size_t>(size) : 0};
}

/// @return whether it was taken, or this file system knows no locks
/// @throws IoError where it cannot be told
bool try_lock(int descriptor, const Path& path) {
  struct flock whole {};
  whole.l_type = F_WRLCK;
  whole.l_whence = SEEK_SET;
  int failed = 0;
  do failed = ::fcntl(descriptor, F_SETLK, &whole);
  while (failed != 0 && errno == EINTR);
  if (failed == 0) return true;
  // ESTALE: its last owner, on another host, has removed it.
  if (errno == EACCES || errno == EAGAIN || errno == ESTALE) return false;
  const bool knows_none =
      errno == ENOLCK || errno == ENOSYS || errno == EOPNOTSUPP || errno == EINVAL;
  if (!knows_none) throw IoError::from_errno("lock", path.native());
  return true;
}

}  // namespace

FolderLock::~FolderLock() {
  if (descriptor_ < 0) return;
  if (is_still_there(descriptor_, path_)) ::unlink(path_.c_str());
  ::close(descriptor_);
}

void FolderLock::take(const Path& folder, std::string_view doing, std::string_view advice) {
  path_ = folder / kName;
  const std::string host = host_name();
  const Clock::time_point began = Clock::now();
  bool is_told = false;
  while (true) {
    const int descriptor = ::open(path_.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    if (descriptor < 0) throw IoError::from_errno("create", path_.native());
    bool is_taken = false;
    try {
      is_taken = try_lock(descriptor, path_);
    } catch (...) {
      ::close(descriptor);
      throw;
    }
    if (is_taken && is_still_there(descriptor, path_)) {
      descriptor_ = descriptor;
      const std::string mine = fmt::format("process {} on {}", ::getpid(), host);
      // Where it cannot be written, another's error says "another process".
      [[maybe_unused]] const bool is_named =
          ::ftruncate(descriptor, 0) == 0 &&
          ::pwrite(descriptor, mine.data(), mine.size(), 0) == std::ssize(mine);
      return;
    }
    const std::string owner = printable(owner_of(descriptor));
    ::close(descriptor);
    if (is_taken) continue;
    const bool is_here = owner.empty() || owner.ends_with(" on " + host);
    if (stop_signal() != 0) {
      throw InterruptedError(doing, folder.native(),
                             fmt::format("stopped by a signal while it was in use by {}",
                                         owner.empty() ? "another process" : owner));
    }
    if (Clock::now() - began > (is_here ? kPatienceHere : kPatienceElsewhere)) {
      throw InputError(doing, folder.native(),
                       fmt::format("it is in use by {}", owner.empty() ? "another process" : owner),
                       advice);
    }
    if (!is_told && !is_here) {
      log::line("waiting up to {} s for {} to leave '{}'", kPatienceElsewhere.count(), owner,
                folder.native());
      is_told = true;
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
  }
}

}  // namespace quadrat
