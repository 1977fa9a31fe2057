#pragma once

#include <string_view>

#include "quadrat/base/files.h"

namespace quadrat {

/// Held by rank 0 while a program is at work in a folder; the system lets go of it whatever ends
/// the process. The file is removed with the lock; what a kill leaves behind is taken over by the
/// next run.
class FolderLock {
 public:
  static constexpr const char* kName = ".lock";

  FolderLock() = default;
  ~FolderLock();
  FolderLock(const FolderLock&) = delete;
  FolderLock& operator=(const FolderLock&) = delete;

  /// Waits for another process to let go of it: for 5 s, which one that was just killed may need
  /// to be gone, or where that ran on another host for 120 s, after which a file server has
  /// forgotten a host that died. File systems without locks are taken as they are.
  /// @param doing, advice what was tried and what to do instead, for the error
  /// @throws InputError naming who holds it
  void take(const Path& folder, std::string_view doing, std::string_view advice);

 private:
  Path path_;
  int descriptor_ = -1;
};

}  // namespace quadrat
