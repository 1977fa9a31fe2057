#pragma once

#include <sys/types.h>

#include <atomic>
#include <cstdint>
#include <map>
#include <mutex>
#include <string>
#include <vector>

namespace quadrat::faults {

/// What faultfs does to the operations that pass through it, read from a control file of lines:
///
///     latency_ms X           every operation takes so much longer
///     fail OP ERRNO [TEXT]   OP (open, read, fsync, ...) fails on paths that contain TEXT
///     room_bytes N           what may still be written from now on, then ENOSPC
///     short_reads            a read gives at most half; of files opened from now on
///     no_locks               fcntl locks fail with ENOLCK
///
/// Lines that are gone stop at once; an empty file is a plain pass-through. Thread-safe.
class Faults {
 public:
  /// Takes the control file's content. @return what it did not understand, empty where it did
  std::string set(const std::string& text);

  /// Waits the latency. @return 0, or the errno that this operation is to fail with
  int before(const std::string& operation, const std::string& path) const;

  /// How many of `bytes` may be written; 0 where there is no room left.
  std::size_t take_room(std::size_t bytes);

  bool short_reads() const;
  bool no_locks() const;

 private:
  struct Rule {
    std::string operation;
    int error = 0;
    std::string text;
  };

  mutable std::mutex mutex_;
  double latency_ms_ = 0;
  std::vector<Rule> rules_;
  bool short_reads_ = false;
  bool no_locks_ = false;
  std::string room_line_;
  std::int64_t room_bytes_ = -1;  // -1: no limit
};

/// Who did how many operations of which kind: "rank 2", by the environment that mpirun gave the
/// process, or its name.
class Counts {
 public:
  void add(const std::string& operation, pid_t thread);

  /// Lines "WHO OP COUNT", sorted.
  std::string text() const;

 private:
  const std::string& who(pid_t thread);

  mutable std::mutex mutex_;
  std::map<pid_t, std::string> names_;
  std::map<std::string, std::map<std::string, std::uint64_t>> counts_;
};

}  // namespace quadrat::faults
