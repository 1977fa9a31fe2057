#include "quadrat/tiles/tile_store.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>

#include "quadrat/base/error.h"
#include "quadrat/base/parallel.h"
#include "quadrat/image/png.h"

namespace quadrat {

namespace {

/// Reserved now, given pages when first written: a tile that is never asked for costs nothing.
std::uint8_t* map_memory(std::size_t bytes) {
  void* address = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE,
                         MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (address == MAP_FAILED)
    throw IoError::from_errno("reserve memory for decoded tiles", fmt::format("{} bytes", bytes));
  return static_cast<std::uint8_t*>(address);
}

int open_scratch(const Path& folder, std::size_t bytes) {
  std::string name = (folder / ".quadrat-scratch-XXXXXX").string();
  const int file = ::mkostemp(name.data(), O_CLOEXEC);
  if (file < 0) throw IoError::from_errno("create a scratch file in", folder.native());
  ::unlink(name.c_str());
  // Taken now, so that nothing runs out in the middle of an epoch.
  int failed = 0;
  do failed = ::posix_fallocate(file, 0, static_cast<off_t>(bytes));
  while (failed == EINTR);
  if (failed == 0) return file;
  ::close(file);
  errno = failed;
  throw IoError::from_errno("reserve scratch space in", folder.native());
}

/// All of `bytes`, by pread or pwrite.
template <typename Transfer, typename Byte>
void transfer(Transfer move, const char* action, int file, Byte* bytes, std::size_t count,
              std::size_t at) {
  while (count > 0) {
    const ssize_t n = move(file, bytes, count, static_cast<off_t>(at));
    if (n < 0 && errno == EINTR) continue;
    if (n == 0) errno = EIO;
    if (n <= 0) throw IoError::from_errno(action, "");
    bytes += n;
    at += static_cast<std::size_t>(n);
    count -= static_cast<std::size_t>(n);
  }
}

}  // namespace

TileStore::TileStore(const Catalog& catalog, std::vector<std::uint32_t> tiles,
                     std::uint32_t side_px, const StoreLimits& limits)
    : catalog_(catalog),
      tiles_(std::move(tiles)),
      side_px_(side_px),
      tile_bytes_(std::size_t{3} * side_px * side_px),
      decoded_(tiles_.size(), false),
      spare_(tile_bytes_) {
  decoders_.push_back(std::make_unique<Decoder>(catalog));
  in_memory_ = std::min<std::size_t>(tiles_.size(), limits.memory_bytes / tile_bytes_);
  if (in_memory_ > 0) memory_ = map_memory(in_memory_ * tile_bytes_);
  if (in_memory_ < tiles_.size() && !limits.scratch.empty()) {
    in_scratch_ = tiles_.size() - in_memory_;
    scratch_ = open_scratch(limits.scratch, in_scratch_ * tile_bytes_);
  }
}

TileStore::~TileStore() {
  if (memory_ != nullptr) ::munmap(memory_, in_memory_ * tile_bytes_);
  if (scratch_ >= 0) ::close(scratch_);
}

void TileStore::keep(std::size_t position, const std::uint8_t* pixels) const {
  if (position < in_memory_) {
    std::memcpy(memory_ + position * tile_bytes_, pixels, tile_bytes_);
  } else if (is_kept(position)) {
    transfer(::pwrite, "write the scratch file", scratch_, pixels, tile_bytes_,
             (position - in_memory_) * tile_bytes_);
  }
}

void TileStore::fetch(std::size_t position, std::uint8_t* target) const {
  if (position < in_memory_) {
    std::memcpy(target, memory_ + position * tile_bytes_, tile_bytes_);
  } else {
    transfer(::pread, "read the scratch file", scratch_, target, tile_bytes_,
             (position - in_memory_) * tile_bytes_);
  }
}

std::size_t TileStore::position_of(std::uint32_t tile) const {
  return static_cast<std::size_t>(std::lower_bound(tiles_.begin(), tiles_.end(), tile) -
                                  tiles_.begin());
}

void TileStore::decode(std::uint32_t tile, Decoder& decoder, std::uint8_t* target) const {
  decoder.reader.read(tile, decoder.file);
  try {
    decode_png_tile(decoder.file, side_px_, {target, tile_bytes_});
  } catch (const Error& error) {
    throw InputError("use tile", (catalog_.root / catalog_.tiles[tile].name).native(), error.what(),
                     "mend or remove it");
  }
}

const std::uint8_t* TileStore::pixels(std::uint32_t tile) {
  const std::size_t position = position_of(tile);
  const bool in_memory = position < in_memory_;
  std::uint8_t* target = in_memory ? memory_ + position * tile_bytes_ : spare_.data();
  if (decoded_[position]) {
    if (!in_memory) fetch(position, target);
    return target;
  }
  decode(tile, *decoders_.front(), target);
  if (!is_kept(position)) return target;
  if (!in_memory) keep(position, target);
  decoded_[position] = true;
  ++decoded_count_;
  return target;
}

void TileStore::copy(std::span<const std::uint32_t> tiles, std::uint8_t* out, int threads) {
  std::vector<std::size_t> missing;  // indices into `tiles`
  for (std::size_t i = 0; i < tiles.size(); ++i) {
    const std::size_t position = position_of(tiles[i]);
    if (decoded_[position]) {
      fetch(position, out + i * tile_bytes_);
    } else {
      missing.push_back(i);
    }
  }
  const auto workers = std::min(missing.size(), static_cast<std::size_t>(std::max(1, threads)));
  while (decoders_.size() < workers) decoders_.push_back(std::make_unique<Decoder>(catalog_));
  for_each_index(missing.size(), workers, [&](std::size_t k, std::size_t worker) {
    std::uint8_t* target = out + missing[k] * tile_bytes_;
    decode(tiles[missing[k]], *decoders_[worker], target);
    keep(position_of(tiles[missing[k]]), target);
  });
  for (const std::size_t i : missing) {
    const std::size_t position = position_of(tiles[i]);
    if (!is_kept(position)) continue;
    decoded_[position] = true;
    ++decoded_count_;
  }
}

}  // namespace quadrat
