#include "folder_lock.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>

#include "quadrat/base/error.h"

namespace quadrat::score {

namespace {

/// Whether the name still leads to the open file: its last owner removes it before letting go.
bool is_still_there(int descriptor, const Path& path) {
  struct stat open_file {};
  struct stat named {};
  return ::fstat(descriptor, &open_file) == 0 && ::stat(path.c_str(), &named) == 0 &&
         open_file.st_ino == named.st_ino && open_file.st_dev == named.st_dev;
}

}  // namespace

FolderLock::~FolderLock() {
  if (descriptor_ < 0) return;
  ::unlink(path_.c_str());
  ::close(descriptor_);
}

void FolderLock::take(const Path& folder) {
  path_ = folder / ".lock";
  while (true) {
    const int descriptor = ::open(path_.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    if (descriptor < 0) throw IoError::from_errno("create", path_.native());
    struct flock whole {};
    whole.l_type = F_WRLCK;
    whole.l_whence = SEEK_SET;
    if (::fcntl(descriptor, F_SETLK, &whole) != 0 && (errno == EACCES || errno == EAGAIN)) {
      ::close(descriptor);
      throw InputError("score into", folder.native(), "another quadrat-score is at work there",
                       "wait for it, or give another --name");
    }
    if (is_still_there(descriptor, path_)) {
      descriptor_ = descriptor;
      return;
    }
    ::close(descriptor);
  }
}

}  // namespace quadrat::score
