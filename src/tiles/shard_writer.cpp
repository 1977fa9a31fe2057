#include "quadrat/tiles/shard_writer.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <libdeflate.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <span>
#include <string_view>
#include <utility>

#include "quadrat/base/error.h"
#include "quadrat/base/files.h"
#include "quadrat/base/signals.h"
#include "quadrat/base/text.h"

namespace quadrat {

namespace {

constexpr std::size_t kBlock = 512;  // of a tar
constexpr std::size_t kNameBytes = 100;
constexpr std::size_t kPrefixBytes = 155;
constexpr std::size_t kBufferBytes = std::size_t{4} << 20;

/// A ustar header (POSIX.1-2001, pax utility, table "ustar Header Block").
using Header = std::array<char, kBlock>;

void put_octal(Header& header, std::size_t at, std::size_t width, std::uint64_t value) {
  const std::string digits = fmt::format("{:0{}o}", value, width - 1);
  std::memcpy(header.data() + at, digits.data(), digits.size());
}

/// @param name fits into the name field, or into prefix and name at some '/'
bool put_name(Header& header, std::string_view name) {
  if (name.size() <= kNameBytes) {
    std::memcpy(header.data(), name.data(), name.size());
    return true;
  }
  for (auto slash = name.find('/'); slash != std::string_view::npos;
       slash = name.find('/', slash + 1)) {
    const std::string_view tail = name.substr(slash + 1);
    if (slash > kPrefixBytes || tail.size() > kNameBytes || tail.empty()) continue;
    std::memcpy(header.data(), tail.data(), tail.size());
    std::memcpy(header.data() + 345, name.data(), slash);
    return true;
  }
  return false;
}

Header make_header(std::string_view name, std::uint64_t size, char type, bool& fits) {
  Header header{};
  fits = put_name(header, name);
  if (!fits)
    put_name(header,
             name.substr(name.size() - kNameBytes));  // the pax header before it has all of it
  put_octal(header, 100, 8, 0644);
  put_octal(header, 108, 8, 0);
  put_octal(header, 116, 8, 0);
  put_octal(header, 124, 12, size);
  put_octal(header, 136, 12, 0);
  header[156] = type;
  std::memcpy(header.data() + 257, "ustar\00000", 8);
  std::memset(header.data() + 148, ' ', 8);
  std::uint32_t sum = 0;
  for (const char c : header) sum += static_cast<unsigned char>(c);
  const std::string digits = fmt::format("{:06o}", sum);
  std::memcpy(header.data() + 148, digits.data(), 6);
  header[154] = '\0';
  return header;
}

/// "30 path=...\n", whose own length counts itself.
std::string pax_record(std::string_view name) {
  std::size_t length = name.size() + 7;
  std::string record;
  do {
    ++length;
    record = fmt::format("{} path={}\n", length, name);
  } while (record.size() != length);
  return record;
}

}  // namespace

struct ShardWriter::State {
  Path path;
  Path temporary;
  int descriptor = -1;
  std::uint64_t offset = 0;  // of the next byte in the tar
  std::vector<char> buffer;

  void flush() {
    write_all(descriptor, std::as_bytes(std::span(buffer)), "write shard", path);
    buffer.clear();
  }

  void put(const void* bytes, std::size_t size) {
    const char* begin = static_cast<const char*>(bytes);
    buffer.insert(buffer.end(), begin, begin + size);
    offset += size;
    if (buffer.size() >= kBufferBytes) flush();
  }

  void pad() {
    static constexpr std::array<char, kBlock> kZeros{};
    put(kZeros.data(), (kBlock - offset % kBlock) % kBlock);
  }

  void file(std::string_view name, std::span<const std::byte> content) {
    bool fits = false;
    const Header header = make_header(name, content.size(), '0', fits);
    if (!fits) {
      const std::string record = pax_record(name);
      bool ignored = false;
      const Header extended = make_header("././@PaxHeader", record.size(), 'x', ignored);
      put(extended.data(), extended.size());
      put(record.data(), record.size());
      pad();
    }
    put(header.data(), header.size());
    put(content.data(), content.size());
    pad();
  }
};

ShardWriter::ShardWriter(const Path& path) : state_(std::make_unique<State>()) {
  state_->path = path;
  state_->temporary = temporary_beside(path);
  do
    state_->descriptor =
        ::open(state_->temporary.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
  while (state_->descriptor < 0 && errno == EINTR);
  if (state_->descriptor < 0) throw IoError::from_errno("create shard", path.native());
}

ShardWriter::~ShardWriter() {
  if (state_->descriptor < 0) return;
  ::close(state_->descriptor);
  ::unlink(state_->temporary.c_str());
}

ShardEntry ShardWriter::add(const std::string& key, std::int32_t class_index,
                            std::span<const std::byte> png) {
  const std::string_view last = std::string_view(key).substr(key.rfind('/') + 1);
  if (last.empty() || last.find('.') != std::string_view::npos ||
      key.find_first_of("\t\n\r") != std::string::npos || key.front() == '/') {
    throw InputError(
        "pack tile", printable(key + ".png"),
        "a name with a dot before .png, a tab or a line break cannot be found again in a shard",
        "rename the file");
  }
  ShardEntry entry;
  entry.key = key;
  entry.size_bytes = static_cast<std::uint32_t>(png.size());
  entry.crc32 = libdeflate_crc32(0, png.data(), png.size());
  state_->file(key + ".png", png);
  entry.offset = state_->offset - (png.size() + kBlock - 1) / kBlock * kBlock;
  if (class_index >= 0) {
    const std::string text = std::to_string(class_index);
    state_->file(key + ".cls", std::as_bytes(std::span(text)));
  }
  return entry;
}

void ShardWriter::close() {
  State& state = *state_;
  static constexpr std::array<char, 2 * kBlock> kEnd{};
  state.put(kEnd.data(), kEnd.size());
  state.flush();
  if (::close(std::exchange(state.descriptor, -1)) != 0) {
    const IoError error = IoError::from_errno("write shard", state.path.native());
    ::unlink(state.temporary.c_str());
    throw error;
  }
  put_in_place(state.temporary, state.path);
}

void write_shard_index(const Path& folder, const ShardSet& set) {
  std::string text = "shard\tkey\tlabel\toffset\tsize\tcrc32\n";
  for (const ShardEntry& entry : set.entries) {
    text += fmt::format("{}\t{}\t{}\t{}\t{}\t{:08x}\n", set.shards.at(entry.shard), entry.key,
                        entry.label, entry.offset, entry.size_bytes, entry.crc32);
  }
  write_file(folder / kShardIndexName, text);
}

std::vector<ShardFault> verify_shards(const Path& folder, const ShardSet& set, std::size_t first,
                                      std::size_t step) {
  std::vector<ShardFault> faults;
  std::vector<bool> faulty(set.shards.size(), false);
  ShardReader reader(folder, set.shards);
  Bytes buffer;
  for (const ShardEntry& entry : set.entries) {
    if (stop_signal() != 0) break;
    if (entry.shard % step != first || faulty[entry.shard]) continue;
    try {
      reader.read(entry.shard, entry.offset, entry.size_bytes, entry.crc32, buffer);
    } catch (const Error& error) {
      faulty[entry.shard] = true;
      faults.push_back({set.shards[entry.shard], error.what()});
    }
  }
  return faults;
}

}  // namespace quadrat
