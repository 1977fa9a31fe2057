#include "quadrat/score/journal.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <libdeflate.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <optional>
#include <span>
#include <unordered_set>
#include <utility>

#include "quadrat/base/error.h"
#include "quadrat/base/files.h"
#include "quadrat/base/log.h"

namespace quadrat::score {

namespace fs = std::filesystem;

namespace {

constexpr std::string_view kMagic = "QDRTJNL2";
constexpr const char* kExtension = ".journal";

std::uint32_t checksum(std::span<const std::byte> bytes) {
  return libdeflate_crc32(0, bytes.data(), bytes.size());
}

template <typename T>
void put(Bytes& bytes, const T& value) {
  const auto* raw = reinterpret_cast<const std::byte*>(&value);
  bytes.insert(bytes.end(), raw, raw + sizeof value);
}

void put_raw(Bytes& bytes, const void* data, std::size_t size) {
  const auto* raw = static_cast<const std::byte*>(data);
  bytes.insert(bytes.end(), raw, raw + size);
}

/// Takes values off the front; nothing where too few bytes are left.
class Cursor {
 public:
  explicit Cursor(std::span<const std::byte> bytes) : bytes_(bytes) {}

  std::optional<std::span<const std::byte>> take(std::uint64_t size) {
    if (size > bytes_.size()) return std::nullopt;
    const auto part = bytes_.first(static_cast<std::size_t>(size));
    bytes_ = bytes_.subspan(static_cast<std::size_t>(size));
    return part;
  }

  template <typename T>
  bool get(T& value) {
    const auto raw = take(sizeof value);
    if (raw) std::memcpy(&value, raw->data(), sizeof value);
    return raw.has_value();
  }

  bool is_empty() const { return bytes_.empty(); }

 private:
  std::span<const std::byte> bytes_;
};

std::optional<UnitResult> parse_unit(std::span<const std::byte> payload, std::uint32_t classes) {
  Cursor cursor(payload);
  UnitResult result;
  std::uint32_t tiles = 0;
  std::uint32_t rejected = 0;
  std::uint32_t width = 0;
  if (!cursor.get(result.unit) || !cursor.get(result.seconds) || !cursor.get(tiles) ||
      !cursor.get(rejected) || !cursor.get(width)) {
    return {};
  }
  const auto get_rows = [&](std::uint32_t columns, std::vector<float>& values) {
    const auto raw = cursor.take(std::uint64_t{tiles} * columns * sizeof(float));
    if (!raw) return false;
    values.resize(raw->size() / sizeof(float));
    if (!values.empty()) std::memcpy(values.data(), raw->data(), raw->size());
    return true;
  };
  if (!get_rows(classes, result.probabilities) || !get_rows(width, result.features)) return {};
  for (std::uint32_t i = 0; i < rejected; ++i) {
    UnitResult::Rejected entry;
    std::uint32_t length = 0;
    if (!cursor.get(entry.tile) || !cursor.get(length)) return {};
    const auto text = cursor.take(length);
    if (!text || entry.tile >= tiles) return {};
    entry.reason.assign(reinterpret_cast<const char*>(text->data()), text->size());
    result.rejected.push_back(std::move(entry));
  }
  if (!cursor.is_empty()) return {};
  return result;
}

std::vector<Path> list_journals(const Path& folder) {
  std::vector<Path> paths;
  std::error_code error;
  for (fs::directory_iterator it(folder, error), end; !error && it != end; it.increment(error)) {
    if (it->path().extension() == kExtension) paths.push_back(it->path());
  }
  if (error && error != std::errc::no_such_file_or_directory) {
    errno = error.value();
    throw IoError::from_errno("list", folder.native());
  }
  std::sort(paths.begin(), paths.end());
  return paths;
}

}  // namespace

JournalWriter::JournalWriter(Path folder, int rank, int ranks, std::uint64_t fingerprint,
                             std::uint32_t classes)
    : folder_(std::move(folder)),
      rank_(rank),
      ranks_(ranks),
      fingerprint_(fingerprint),
      classes_(classes) {}

JournalWriter::~JournalWriter() {
  if (descriptor_ >= 0) ::close(descriptor_);
}

void JournalWriter::create() {
  for (int start = 0; descriptor_ < 0; ++start) {
    path_ = folder_ / fmt::format("rank{:05}.{}{}", rank_, start, kExtension);
    descriptor_ = ::open(path_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_APPEND | O_CLOEXEC, 0666);
    if (descriptor_ < 0 && errno != EEXIST && errno != EINTR)
      throw IoError::from_errno("create", path_.native());
  }
  Bytes header;
  put_raw(header, kMagic.data(), kMagic.size());
  put(header, fingerprint_);
  put(header, classes_);
  put(header, static_cast<std::uint32_t>(ranks_));
  put(header, checksum(header));
  write(header);
  flush_folder(folder_);
}

void JournalWriter::write(const Bytes& bytes) {
  write_all(descriptor_, bytes, "write", path_);
  flush(descriptor_, path_);
}

void JournalWriter::append(const UnitResult& result) {
  if (descriptor_ < 0) create();
  Bytes payload;
  put(payload, result.unit);
  put(payload, result.seconds);
  const std::size_t tiles = result.probabilities.size() / classes_;
  put(payload, static_cast<std::uint32_t>(tiles));
  put(payload, static_cast<std::uint32_t>(result.rejected.size()));
  put(payload, static_cast<std::uint32_t>(tiles > 0 ? result.features.size() / tiles : 0));
  put_raw(payload, result.probabilities.data(), result.probabilities.size() * sizeof(float));
  put_raw(payload, result.features.data(), result.features.size() * sizeof(float));
  for (const UnitResult::Rejected& entry : result.rejected) {
    put(payload, entry.tile);
    put(payload, static_cast<std::uint32_t>(entry.reason.size()));
    put_raw(payload, entry.reason.data(), entry.reason.size());
  }
  Bytes record;
  put(record, static_cast<std::uint32_t>(payload.size()));
  put(record, checksum(payload));
  put_raw(record, payload.data(), payload.size());
  write(record);
}

void JournalWriter::close() {
  if (descriptor_ < 0) return;
  if (::close(std::exchange(descriptor_, -1)) != 0)
    throw IoError::from_errno("write", path_.native());
}

double read_journals(const Path& folder, std::uint64_t fingerprint, std::uint32_t classes,
                     const std::function<void(UnitResult&&)>& found) {
  double seconds = 0;
  std::unordered_set<std::uint64_t> seen;
  for (const Path& path : list_journals(folder)) {
    const Bytes bytes = read_file(path, std::uint64_t{1} << 40);
    Cursor cursor(bytes);

    std::uint64_t its_fingerprint = 0;
    std::uint32_t its_classes = 0;
    std::uint32_t its_ranks = 0;
    std::uint32_t crc = 0;
    constexpr std::size_t kHeaderBytes = kMagic.size() + 16;
    const auto magic = cursor.take(kMagic.size());
    const bool whole = magic && std::memcmp(magic->data(), kMagic.data(), kMagic.size()) == 0 &&
                       cursor.get(its_fingerprint) && cursor.get(its_classes) &&
                       cursor.get(its_ranks) && cursor.get(crc) &&
                       crc == checksum(std::span(bytes).first(kHeaderBytes));
    if (!whole) continue;  // killed before its first unit was whole
    if (its_fingerprint != fingerprint || its_classes != classes) {
      throw InputError("go on with", path.native(), "it belongs to a run with other settings",
                       "give another --name, or remove the folder");
    }
    double rank_seconds = 0;
    while (!cursor.is_empty()) {
      std::uint32_t size = 0;
      if (!cursor.get(size) || !cursor.get(crc)) break;
      const auto payload = cursor.take(size);
      if (!payload || checksum(*payload) != crc) break;
      auto result = parse_unit(*payload, classes);
      if (!result) break;
      rank_seconds += result->seconds;
      if (seen.insert(result->unit).second) found(std::move(*result));
    }
    seconds += rank_seconds / std::max<std::uint32_t>(1, its_ranks);
  }
  return seconds;
}

void remove_journals(const Path& folder) {
  for (const Path& path : list_journals(folder)) {
    if (::unlink(path.c_str()) != 0 && errno != ENOENT)
      throw IoError::from_errno("remove", path.native());
  }
}

}  // namespace quadrat::score
