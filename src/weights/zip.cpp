#include "zip.h"

#include <fmt/format.h>
#include <libdeflate.h>

#include <algorithm>

#include "formats.h"
#include "quadrat/base/text.h"

namespace quadrat::weights {

namespace {

constexpr std::uint32_t kLocalSignature = 0x04034b50;
constexpr std::uint32_t kCentralSignature = 0x02014b50;
constexpr std::uint32_t kEndSignature = 0x06054b50;
constexpr std::uint32_t kEnd64Signature = 0x06064b50;
constexpr std::uint32_t kLocator64Signature = 0x07064b50;
constexpr std::size_t kLocalBytes = 30;
constexpr std::size_t kCentralBytes = 46;
constexpr std::size_t kEndBytes = 22;
constexpr std::size_t kEnd64Bytes = 56;
constexpr std::size_t kLocator64Bytes = 20;
constexpr std::uint16_t kZip64Field = 1;
constexpr std::uint32_t kIn64 = 0xffffffff;  // the number is in the zip64 field instead

[[noreturn]] void damaged(std::string_view what) {
  throw Fault{fmt::format("its zip archive is cut short or damaged: {}", what)};
}

void put(Bytes& bytes, std::uint64_t value, int width) {
  for (int i = 0; i < width; ++i) bytes.push_back(static_cast<std::byte>(value >> (8 * i)));
}

void put(Bytes& bytes, std::string_view text) {
  for (const char c : text) bytes.push_back(static_cast<std::byte>(c));
}

/// Replaces the numbers that did not fit by those of the zip64 field, in its fixed order.
void read_zip64_field(std::span<const std::byte> extra, ZipReader::Entry& entry) {
  while (extra.size() >= 4) {
    const auto id = little_endian(extra.data(), 2);
    const auto bytes = little_endian(extra.data() + 2, 2);
    if (bytes > extra.size() - 4) return;
    if (id == kZip64Field) {
      auto field = extra.subspan(4, bytes);
      for (std::uint64_t* number : {&entry.unpacked_bytes, &entry.bytes, &entry.header_at}) {
        if (*number != kIn64) continue;
        if (field.size() < 8) damaged("a zip64 field is too short");
        *number = little_endian(field.data(), 8);
        field = field.subspan(8);
      }
      return;
    }
    extra = extra.subspan(4 + bytes);
  }
}

/// Where the end record starts: the last place whose comment reaches exactly to the file's end.
std::size_t find_end_record(std::span<const std::byte> file) {
  constexpr std::size_t kMaxComment = 65535;
  if (file.size() >= kEndBytes) {
    const std::size_t last = file.size() - kEndBytes;
    const std::size_t first = last > kMaxComment ? last - kMaxComment : 0;
    for (std::size_t at = last + 1; at-- > first;) {
      if (little_endian(file.data() + at, 4) == kEndSignature &&
          little_endian(file.data() + at + 20, 2) == last - at) {
        return at;
      }
    }
  }
  damaged("it has no directory");
}

}  // namespace

ZipReader::ZipReader(std::span<const std::byte> file) : file_(file) { read_directory(); }

void ZipReader::read_directory() {
  const std::size_t end = find_end_record(file_);
  std::uint64_t count = little_endian(file_.data() + end + 10, 2);
  std::uint64_t bytes = little_endian(file_.data() + end + 12, 4);
  std::uint64_t at = little_endian(file_.data() + end + 16, 4);
  const bool has_locator =
      end >= kLocator64Bytes &&
      little_endian(file_.data() + end - kLocator64Bytes, 4) == kLocator64Signature;
  if (has_locator) {
    const std::uint64_t end64 = little_endian(file_.data() + end - kLocator64Bytes + 8, 8);
    if (end64 > file_.size() || file_.size() - end64 < kEnd64Bytes ||
        little_endian(file_.data() + end64, 4) != kEnd64Signature) {
      damaged("its zip64 directory is not where it should be");
    }
    count = little_endian(file_.data() + end64 + 32, 8);
    bytes = little_endian(file_.data() + end64 + 40, 8);
    at = little_endian(file_.data() + end64 + 48, 8);
  }
  if (at > file_.size() || bytes > file_.size() - at)
    damaged("its directory lies outside the file");
  auto rest = file_.subspan(at, bytes);
  for (std::uint64_t i = 0; i < count; ++i) {
    if (rest.size() < kCentralBytes || little_endian(rest.data(), 4) != kCentralSignature) {
      damaged(fmt::format("its directory ends after {} of {} entries", i, count));
    }
    Entry entry;
    entry.flags = static_cast<std::uint16_t>(little_endian(rest.data() + 8, 2));
    entry.method = static_cast<std::uint16_t>(little_endian(rest.data() + 10, 2));
    entry.crc = static_cast<std::uint32_t>(little_endian(rest.data() + 16, 4));
    entry.bytes = little_endian(rest.data() + 20, 4);
    entry.unpacked_bytes = little_endian(rest.data() + 24, 4);
    const std::size_t name_bytes = little_endian(rest.data() + 28, 2);
    const std::size_t extra_bytes = little_endian(rest.data() + 30, 2);
    const std::size_t comment_bytes = little_endian(rest.data() + 32, 2);
    entry.header_at = little_endian(rest.data() + 42, 4);
    const std::size_t entry_bytes = kCentralBytes + name_bytes + extra_bytes + comment_bytes;
    if (entry_bytes > rest.size()) damaged("an entry of its directory is cut short");
    const std::string name(reinterpret_cast<const char*>(rest.data()) + kCentralBytes, name_bytes);
    read_zip64_field(rest.subspan(kCentralBytes + name_bytes, extra_bytes), entry);
    if (!entries_.emplace(name, entry).second) {
      throw Fault{fmt::format("its zip archive has '{}' twice", printable(name))};
    }
    rest = rest.subspan(entry_bytes);
  }
}

std::span<const std::byte> ZipReader::find(std::string_view name) const {
  const auto found = entries_.find(name);
  if (found == entries_.end()) return {};
  const Entry& entry = found->second;
  const std::string shown = printable(name);
  constexpr std::uint16_t kEncrypted = 1;
  if (entry.method != 0 || (entry.flags & kEncrypted) != 0 || entry.bytes != entry.unpacked_bytes) {
    throw Fault{
        fmt::format("'{}' in its zip archive is compressed or encrypted, which torch.save "
                    "never does",
                    shown)};
  }
  if (entry.header_at > file_.size() || file_.size() - entry.header_at < kLocalBytes) {
    damaged(fmt::format("'{}' lies outside the file", shown));
  }
  const std::byte* header = file_.data() + entry.header_at;
  if (little_endian(header, 4) != kLocalSignature) {
    damaged(fmt::format("'{}' is not where its directory says", shown));
  }
  const std::uint64_t from =
      entry.header_at + kLocalBytes + little_endian(header + 26, 2) + little_endian(header + 28, 2);
  if (from > file_.size() || entry.bytes > file_.size() - from) {
    damaged(fmt::format("'{}' lies outside the file", shown));
  }
  const auto content = file_.subspan(from, entry.bytes);
  if (libdeflate_crc32(0, content.data(), content.size()) != entry.crc) {
    damaged(fmt::format("the checksum of '{}' is wrong", shown));
  }
  return content;
}

void ZipWriter::add(std::string_view name, std::span<const std::byte> content) {
  constexpr std::size_t kAlignment = 64;
  constexpr std::uint16_t kVersion = 20;
  constexpr std::uint16_t kUtf8 = 1 << 11;
  constexpr std::uint16_t kDate = (1 << 5) | 1;  // 1980-01-01: the same weights make the same file
  constexpr std::uint16_t kPaddingField = 0x4246;  // "FB", the field PyTorch pads with
  constexpr std::size_t kFieldHead = 4;

  const std::uint64_t header_at = file_.size();
  const std::uint64_t unpadded = header_at + kLocalBytes + name.size() + kFieldHead;
  const std::uint64_t padding = (kAlignment - unpadded % kAlignment) % kAlignment;
  if (unpadded + padding + content.size() + directory_.size() > 0xf0000000 || count_ == 0xfffe) {
    throw Fault{"a .pth file over 4 GB is not written", "convert to .safetensors instead"};
  }
  const std::uint32_t crc = libdeflate_crc32(0, content.data(), content.size());
  const auto common = [&](Bytes& to) {
    put(to, kVersion, 2);
    put(to, kUtf8, 2);
    put(to, 0, 2);  // stored
    put(to, 0, 2);
    put(to, kDate, 2);
    put(to, crc, 4);
    put(to, content.size(), 4);
    put(to, content.size(), 4);
    put(to, name.size(), 2);
  };
  put(file_, kLocalSignature, 4);
  common(file_);
  put(file_, kFieldHead + padding, 2);
  put(file_, name);
  put(file_, kPaddingField, 2);
  put(file_, padding, 2);
  file_.resize(file_.size() + padding, std::byte{'Z'});
  file_.insert(file_.end(), content.begin(), content.end());

  put(directory_, kCentralSignature, 4);
  put(directory_, kVersion, 2);
  common(directory_);
  put(directory_, 0, 2);  // extra field
  put(directory_, 0, 2);  // comment
  put(directory_, 0, 2);  // disk
  put(directory_, 0, 2);
  put(directory_, 0, 4);
  put(directory_, header_at, 4);
  put(directory_, name);
  ++count_;
}

Bytes ZipWriter::finish() {
  const std::uint64_t directory_at = file_.size();
  file_.insert(file_.end(), directory_.begin(), directory_.end());
  put(file_, kEndSignature, 4);
  put(file_, 0, 2);
  put(file_, 0, 2);
  put(file_, count_, 2);
  put(file_, count_, 2);
  put(file_, directory_.size(), 4);
  put(file_, directory_at, 4);
  put(file_, 0, 2);
  return std::move(file_);
}

}  // namespace quadrat::weights
