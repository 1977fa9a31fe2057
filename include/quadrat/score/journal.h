#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "quadrat/base/files.h"

namespace quadrat::score {

/// What became of one unit of tiles.
struct UnitResult {
  struct Rejected {
    std::uint32_t tile = 0;  ///< counted from the unit's first
    std::string reason;
  };

  std::uint64_t unit = 0;
  double seconds = 0;                ///< wall time it took
  std::vector<float> probabilities;  ///< [tiles, classes]; all 0 for a rejected tile
  std::vector<float> features;       ///< [tiles, width] where they were asked for
  std::vector<Rejected> rejected;
};

/// A rank's finished units on disk, one file for each rank and start: what a restarted run need not
/// do again.
///
/// Layout, little-endian:
///
///     "QDRTJNL2" | fingerprint u64 | classes u32 | ranks u32 | crc32 u32 of all before
///     then a unit each: payload bytes u32 | crc32 u32 of the payload | payload:
///         unit u64 | seconds f64 | tiles u32 | rejected u32 | width u32 |
///         probabilities f32 [tiles, classes] | features f32 [tiles, width] |
///         rejected times: tile u32 | reason bytes u32 | reason
///
/// A unit is appended by one write and fsynced before it counts. What a kill cuts off fails its
/// checksum and is left out; nothing after it is read.
class JournalWriter {
 public:
  /// A new file in `folder`, whatever others there are. Created when the first unit is appended.
  /// @param fingerprint of the settings that results depend on
  JournalWriter(Path folder, int rank, int ranks, std::uint64_t fingerprint, std::uint32_t classes);
  ~JournalWriter();
  JournalWriter(const JournalWriter&) = delete;
  JournalWriter& operator=(const JournalWriter&) = delete;

  /// On disk when this returns. @throws IoError
  void append(const UnitResult& result);

  /// @throws IoError where the file system says only now that there was no room
  void close();

 private:
  void create();
  void write(const Bytes& bytes);

  Path folder_;
  Path path_;
  int rank_;
  int ranks_;
  std::uint64_t fingerprint_;
  std::uint32_t classes_;
  int descriptor_ = -1;
};

/// Calls `found` for each whole unit of each journal in `folder`; a unit that two journals hold
/// comes once.
/// @return wall time in seconds that the units took, ranks running side by side
/// @throws InputError where a journal is of other settings; IoError
double read_journals(const Path& folder, std::uint64_t fingerprint, std::uint32_t classes,
                     const std::function<void(UnitResult&&)>& found);

/// Removes all journals in `folder`. @throws IoError
void remove_journals(const Path& folder);

}  // namespace quadrat::score
