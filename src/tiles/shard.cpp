#include "quadrat/tiles/shard.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <libdeflate.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <map>
#include <string_view>
#include <utility>

#include "quadrat/base/error.h"
#include "quadrat/base/text.h"

namespace quadrat {

namespace {

constexpr std::string_view kHeader = "shard\tkey\tlabel\toffset\tsize\tcrc32";
constexpr std::uint32_t kMaxTileBytes = std::uint32_t{1} << 28;
// Between a tile and the next lie its class's two blocks, the next one's header, and perhaps a long
// name's three.
constexpr std::uint64_t kMaxGapBytes = 16 * 512;
constexpr std::uint64_t kReadAheadBytes = std::uint64_t{4} << 20;
// So that sums of offsets cannot overflow.
constexpr std::uint64_t kMaxShardBytes = std::uint64_t{1} << 50;

std::vector<std::string_view> split(std::string_view line, char separator) {
  std::vector<std::string_view> fields;
  for (;;) {
    const auto end = line.find(separator);
    fields.push_back(line.substr(0, end));
    if (end == std::string_view::npos) return fields;
    line.remove_prefix(end + 1);
  }
}

}  // namespace

bool has_shard_index(const Path& folder) {
  std::error_code ignored;
  return std::filesystem::is_regular_file(folder / kShardIndexName, ignored);
}

ShardSet read_shard_index(const Path& folder) {
  const Path path = folder / kShardIndexName;
  const Bytes content = read_file(path);
  std::string_view text(reinterpret_cast<const char*>(content.data()), content.size());
  const auto wrong = [&](std::size_t line, const std::string& finding) {
    return InputError("use shard index", path.native(), fmt::format("line {}: {}", line, finding),
                      "pack the tiles again with quadrat-pack");
  };
  if (text.empty() || text.back() != '\n') throw wrong(1, "the file ends in the middle of a line");

  ShardSet set;
  std::map<std::string, std::uint32_t, std::less<>> shard_index;
  std::vector<std::uint64_t> needed;  // bytes each shard must have
  std::size_t number = 0;
  while (!text.empty()) {
    const std::string_view line = take_until(text, '\n');
    ++number;
    if (number == 1) {
      if (line != kHeader)
        throw wrong(1, fmt::format("expected the header '{}'", printable(kHeader)));
      continue;
    }
    const auto fields = split(line, '\t');
    ShardEntry entry;
    if (fields.size() != 6 || !parse_number(fields[3], entry.offset) ||
        !parse_number(fields[4], entry.size_bytes) || !parse_number(fields[5], entry.crc32, 16) ||
        fields[1].empty() || entry.size_bytes > kMaxTileBytes || entry.offset > kMaxShardBytes) {
      throw wrong(number,
                  fmt::format("'{}' is not six fields: shard, key, label, offset, size, crc32",
                              printable(line)));
    }
    if (fields[0].empty() || fields[0].front() == '.' ||
        fields[0].find('/') != std::string_view::npos) {
      throw wrong(number, fmt::format("'{}' is no file name", printable(fields[0])));
    }
    entry.key = fields[1];
    entry.label = fields[2];
    const auto [it, added] = shard_index.try_emplace(std::string(fields[0]),
                                                     static_cast<std::uint32_t>(set.shards.size()));
    if (added) {
      set.shards.emplace_back(fields[0]);
      needed.push_back(0);
    }
    entry.shard = it->second;
    needed[entry.shard] = std::max(needed[entry.shard], entry.offset + entry.size_bytes);
    set.entries.push_back(std::move(entry));
  }
  for (std::size_t i = 0; i < set.shards.size(); ++i) {
    const Path shard = folder / set.shards[i];
    struct stat status {};
    if (::stat(shard.c_str(), &status) != 0)
      throw IoError::from_errno("open shard", shard.native());
    if (static_cast<std::uint64_t>(status.st_size) < needed[i]) {
      throw InputError("use shard", shard.native(),
                       fmt::format("it has {} bytes, its index needs {}: it was cut short",
                                   status.st_size, needed[i]),
                       "copy or pack it again");
    }
  }
  return set;
}

ShardReader::ShardReader(Path folder, std::vector<std::string> shards)
    : folder_(std::move(folder)), shards_(std::move(shards)) {}

void ShardReader::read_ahead(int descriptor, std::uint32_t shard, std::uint64_t begin,
                             std::uint64_t end) {
  const bool is_next =
      shard == last_shard_ && begin >= last_end_ && begin - last_end_ <= kMaxGapBytes;
  if (!is_next) {
    ahead_ = end;
  } else if (end + kReadAheadBytes / 2 > ahead_) {
    ahead_ = end + kReadAheadBytes;
    // Only a hint: where it fails, reading is as slow as before.
    ::posix_fadvise(descriptor, static_cast<off_t>(end), static_cast<off_t>(kReadAheadBytes),
                    POSIX_FADV_WILLNEED);
  }
  last_shard_ = shard;
  last_end_ = end;
}

ShardReader::~ShardReader() {
  while (!open_.empty()) close(open_.front().shard);
}

void ShardReader::close(std::uint32_t shard) {
  const auto found = std::find_if(open_.begin(), open_.end(),
                                  [&](const Open& open) { return open.shard == shard; });
  if (found == open_.end()) return;
  ::close(found->descriptor);
  open_.erase(found);
}

int ShardReader::open(std::uint32_t shard) {
  for (const Open& open : open_) {
    if (open.shard == shard) return open.descriptor;
  }
  if (open_.size() == kMostOpen) close(open_.front().shard);
  const Path path = path_of(shard);
  int descriptor = -1;
  do descriptor = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  while (descriptor < 0 && errno == EINTR);
  if (descriptor < 0) throw IoError::from_errno("open shard", path.native());
  open_.push_back({shard, descriptor});
  return descriptor;
}

void ShardReader::read(std::uint32_t shard, std::uint64_t offset, std::uint32_t size_bytes,
                       std::uint32_t crc32, Bytes& buffer) {
  const Path path = path_of(shard);
  const int descriptor = open(shard);
  read_ahead(descriptor, shard, offset, offset + size_bytes);
  buffer.resize(size_bytes);
  std::size_t done = 0;
  while (done < size_bytes) {
    const ssize_t n = ::pread(descriptor, buffer.data() + done, size_bytes - done,
                              static_cast<off_t>(offset + done));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) throw IoError::from_errno("read shard", path.native());
    if (n == 0) {
      throw InputError("read shard", path.native(),
                       fmt::format("it ends before byte {}", offset + size_bytes),
                       "copy or pack it again");
    }
    done += static_cast<std::size_t>(n);
  }
  const std::uint32_t found = libdeflate_crc32(0, buffer.data(), buffer.size());
  if (found != crc32) {
    throw InputError(
        "read shard", path.native(),
        fmt::format(
            "the tile at byte {} has checksum {:08x}, its index says {:08x}: the shard has changed",
            offset, found, crc32),
        "copy or pack it again");
  }
}

}  // namespace quadrat
