#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <string_view>

#include "quadrat/base/files.h"

namespace quadrat::weights {

/// A zip archive as torch.save writes it: every entry stored, none compressed. Own code, because of
/// a zip library this needs only the directory, and PyTorch wants each entry's bytes aligned, which
/// general libraries do not offer. Zip64 is read (AlexNet's file is not large, others' are).
/// (APPNOTE.TXT 6.3.10, sections 4.3 and 4.4.)
class ZipReader {
 public:
  /// @throws Fault where there is no whole directory, or an entry lies outside the file or is given
  /// twice
  explicit ZipReader(std::span<const std::byte> file);

  struct Entry {
    std::uint64_t header_at = 0;
    std::uint64_t bytes = 0;
    std::uint64_t unpacked_bytes = 0;
    std::uint32_t crc = 0;
    std::uint16_t method = 0;
    std::uint16_t flags = 0;
  };
  const std::map<std::string, Entry, std::less<>>& entries() const { return entries_; }

  /// The entry's bytes, checksum verified; none where there is no such entry.
  /// @throws Fault where it is compressed, encrypted or damaged
  std::span<const std::byte> find(std::string_view name) const;

 private:
  void read_directory();

  std::span<const std::byte> file_;
  std::map<std::string, Entry, std::less<>> entries_;
};

/// Writes such an archive in memory, each entry's bytes at a multiple of 64. Up to 4 GB.
class ZipWriter {
 public:
  /// @throws Fault where the archive would exceed 4 GB
  void add(std::string_view name, std::span<const std::byte> content);
  Bytes finish();

 private:
  Bytes file_;
  Bytes directory_;
  std::uint16_t count_ = 0;
};

}  // namespace quadrat::weights
