#pragma once

#include "quadrat/base/files.h"

namespace quadrat::score {

/// Held by rank 0 while a run is at work in a folder; the system lets go of it whatever ends the
/// process. The file is removed with the lock; what a kill leaves behind is taken over by the next
/// run.
class FolderLock {
 public:
  FolderLock() = default;
  ~FolderLock();
  FolderLock(const FolderLock&) = delete;
  FolderLock& operator=(const FolderLock&) = delete;

  /// @throws InputError where another process holds it. File systems without locks are taken as
  /// they are.
  void take(const Path& folder);

 private:
  Path path_;
  int descriptor_ = -1;
};

}  // namespace quadrat::score
