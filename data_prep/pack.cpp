#include <fmt/format.h>
#include <sys/stat.h>

#include <algorithm>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <string_view>
#include <utility>

#include "quadrat/base/clock.h"
#include "quadrat/base/error.h"
#include "quadrat/base/folder_lock.h"
#include "quadrat/base/log.h"
#include "quadrat/base/progress.h"
#include "quadrat/base/random.h"
#include "quadrat/base/signals.h"
#include "quadrat/base/text.h"
#include "quadrat/base/tile_folder.h"
#include "quadrat/cli/parser.h"
#include "quadrat/mpi/communicator.h"
#include "quadrat/mpi/environment.h"
#include "quadrat/tiles/catalog.h"
#include "quadrat/tiles/reader.h"
#include "quadrat/tiles/shard_writer.h"

namespace {

using namespace quadrat;

struct PackOptions {
  Path tiles;
  Path output;
  Path verify;
  std::int64_t tiles_per_shard = 4096;
  std::string order = "auto";
  std::int64_t seed = 0;
};

std::string key_of(const Tile& tile) {
  return tile.name.substr(0, tile.name.size() - 4);
}  // without ".png"

/// Tiles in the order they are packed in.
std::vector<std::size_t> packing_order(const Catalog& catalog, const PackOptions& options) {
  std::vector<std::size_t> order(catalog.tiles.size());
  for (std::size_t i = 0; i < order.size(); ++i) order[i] = i;
  const bool shuffled =
      options.order == "shuffled" || (options.order == "auto" && !catalog.classes.empty());
  if (shuffled) {
    KeyedRandom random{static_cast<std::uint64_t>(options.seed), kStreamOrder};
    shuffle(order, random);
  }
  return order;
}

std::string shard_name(std::size_t number) { return fmt::format("tiles-{:06}.tar", number); }

bool is_shard_name(std::string_view name) {
  constexpr std::string_view kBegin = "tiles-", kEnd = ".tar";
  if (!name.starts_with(kBegin) || !name.ends_with(kEnd)) return false;
  const auto digits = name.substr(kBegin.size(), name.size() - kBegin.size() - kEnd.size());
  return digits.size() >= 6 && digits.find_first_not_of("0123456789") == std::string_view::npos;
}

/// What a pack that did not get to its end has in its folder.
std::vector<Path> unfinished(const Path& output) {
  std::vector<Path> ours;
  std::error_code error;
  if (!std::filesystem::exists(output, error)) return ours;
  if (!std::filesystem::is_directory(output, error))
    throw InputError("pack into", output.native(), "it is a file", "name a new folder");
  for (const auto& entry : std::filesystem::directory_iterator(output)) {
    const std::string name = entry.path().filename().string();
    if (is_shard_name(name) || name.starts_with(".tiles-") || name == tile_folder::kSummaries) {
      ours.push_back(entry.path());
    } else if (name.front() != '.') {
      throw InputError("pack into", output.native(),
                       fmt::format("it is not empty: it holds '{}'", printable(name)),
                       "name a new folder");
    }
  }
  return ours;
}

/// Takes the output folder, unless it is packed already, and clears it of what a pack that did not
/// get to its end left: shards of other sizes would otherwise lie beside the new ones. @return
/// whether it is packed already
bool is_packed(const Path& output, FolderLock& lock) {
  if (has_shard_index(output)) return true;
  unfinished(output);  // nothing is made in a foreign folder
  make_folder(output);
  lock.take(output, "pack into", "wait for it, or name another --output");
  if (has_shard_index(output)) return true;  // another process was at work until now
  for (const Path& path : unfinished(output)) std::filesystem::remove(path);
  remove_stale_temporaries(output);
  return false;
}

/// Whether a tile has other bytes than were packed. Sizes are compared, and content only where the
/// file is younger than the index.
class PackedTiles {
 public:
  PackedTiles(const Catalog& catalog, const Catalog& packed)
      : catalog_(catalog), packed_(packed), reader_(catalog), packed_reader_(packed) {
    indexed_ = status_of(packed.root / kShardIndexName).st_mtim;
  }

  bool differs(std::size_t index) {
    const Tile& tile = catalog_.tiles[index];
    const Tile& there = packed_.tiles[index];
    if (tile.shard != Tile::kOwnFile) {
      return tile.size_bytes != there.size_bytes || tile.crc32 != there.crc32;
    }
    const struct stat status = status_of(catalog_.root / tile.name);
    if (std::cmp_not_equal(status.st_size, there.size_bytes)) return true;
    // Not when it was written, which copies of files keep.
    const timespec& changed = status.st_ctim;
    if (std::pair(changed.tv_sec, changed.tv_nsec) < std::pair(indexed_.tv_sec, indexed_.tv_nsec))
      return false;
    reader_.read(index, png_);
    packed_reader_.read(index, packed_png_);
    return png_ != packed_png_;
  }

 private:
  static struct stat status_of(const Path& path) {
    struct stat status {};
    if (::stat(path.c_str(), &status) != 0) throw IoError::from_errno("read", path.native());
    return status;
  }

  const Catalog& catalog_;
  const Catalog& packed_;
  TileReader reader_;
  TileReader packed_reader_;
  timespec indexed_{};
  Bytes png_;
  Bytes packed_png_;
};

/// Compares what is packed with what this command would pack; tiles' bytes are looked at by the
/// ranks in turn. @throws InputError where they are not the same
void require_same(const PackOptions& options, const Catalog& catalog,
                  const std::vector<std::size_t>& order, const mpi::Communicator& ranks) {
  const auto other = [&](std::string_view finding) {
    return InputError("pack into", options.output.native(), finding,
                      "name another --output, or remove that folder");
  };
  const Catalog packed = list_tiles(options.output);
  const auto same = [](auto member) {
    return [member](const Tile& a, const Tile& b) { return a.*member == b.*member; };
  };
  if (!std::equal(catalog.tiles.begin(), catalog.tiles.end(), packed.tiles.begin(),
                  packed.tiles.end(), same(&Tile::name))) {
    throw other(fmt::format("it holds {} other tiles, packed already", packed.tiles.size()));
  }
  if (catalog.classes != packed.classes || !std::equal(catalog.tiles.begin(), catalog.tiles.end(),
                                                       packed.tiles.begin(), same(&Tile::label))) {
    throw other("its tiles were packed with other classes");
  }
  const auto per_shard = static_cast<std::size_t>(options.tiles_per_shard);
  std::uint64_t last = 0;
  for (std::size_t i = 0; i < order.size(); ++i) {
    const Tile& there = packed.tiles[order[i]];
    if (i % per_shard == 0) last = 0;
    if (packed.shards[static_cast<std::size_t>(there.shard)] != shard_name(i / per_shard) ||
        there.offset < last) {
      throw other("its tiles were packed with another --tiles_per_shard, --order or --seed");
    }
    last = there.offset;
  }
  PackedTiles tiles(catalog, packed);
  for (auto i = static_cast<std::size_t>(ranks.rank()); i < order.size();
       i += static_cast<std::size_t>(ranks.size())) {
    if (!tiles.differs(order[i])) continue;
    throw other(fmt::format("its tile '{}' was packed with other bytes",
                            printable(catalog.tiles[order[i]].name)));
  }
}

/// Writes this rank's shards, as far as no signal comes. @return their tiles: shard, index in the
/// catalog, offset, size, checksum of each
nlohmann::json write_shards(const PackOptions& options, const Catalog& catalog,
                            const std::vector<std::size_t>& order, const mpi::Communicator& ranks) {
  nlohmann::json written = nlohmann::json::array();
  const auto per_shard = static_cast<std::size_t>(options.tiles_per_shard);
  TileReader reader(catalog);
  Bytes png;
  Progress bar("packing", "tiles", order.size(), ranks.is_root());
  for (auto shard = static_cast<std::size_t>(ranks.rank()); shard * per_shard < order.size();
       shard += static_cast<std::size_t>(ranks.size())) {
    ShardWriter writer(options.output / shard_name(shard));
    for (std::size_t i = shard * per_shard; i < std::min(order.size(), (shard + 1) * per_shard);
         ++i) {
      if (stop_signal() != 0) return written;
      const Tile& tile = catalog.tiles[order[i]];
      reader.read(order[i], png);
      const ShardEntry entry = writer.add(key_of(tile), tile.label, png);
      written.push_back({shard, order[i], entry.offset, entry.size_bytes, entry.crc32});
      bar.update(i + 1);
    }
    writer.close();
  }
  return written;
}

/// The index, from what each rank wrote.
ShardSet index_of(const Catalog& catalog, const std::vector<Bytes>& written) {
  ShardSet set;
  for (const Bytes& part : written) {
    const auto* begin = reinterpret_cast<const std::uint8_t*>(part.data());
    for (const auto& fields : nlohmann::json::from_cbor(begin, begin + part.size())) {
      const Tile& tile = catalog.tiles[fields[1].get<std::size_t>()];
      ShardEntry entry;
      entry.shard = fields[0];
      entry.key = key_of(tile);
      entry.label = tile.label >= 0 ? catalog.classes[static_cast<std::size_t>(tile.label)] : "";
      entry.offset = fields[2];
      entry.size_bytes = fields[3];
      entry.crc32 = fields[4];
      set.entries.push_back(std::move(entry));
    }
  }
  std::sort(set.entries.begin(), set.entries.end(), [](const ShardEntry& a, const ShardEntry& b) {
    return std::pair(a.shard, a.offset) < std::pair(b.shard, b.offset);
  });
  for (std::size_t shard = 0; shard <= set.entries.back().shard; ++shard)
    set.shards.push_back(shard_name(shard));
  return set;
}

int pack(const PackOptions& options, const mpi::Communicator& ranks) {
  const auto began = Clock::now();
  FolderLock lock;  // rank 0
  Bytes listed;
  bool is_complete = false;
  mpi::together(ranks, [&] {
    if (!ranks.is_root()) return;
    listed = list_tiles(options.tiles).serialize();
    is_complete = is_packed(options.output, lock);
  });
  is_complete = ranks.sum(static_cast<std::int64_t>(is_complete ? 1 : 0)) > 0;
  const Catalog catalog = Catalog::deserialize(ranks.broadcast(std::move(listed)));
  const std::vector<std::size_t> order = packing_order(catalog, options);
  if (is_complete) {
    mpi::together(ranks, [&] { require_same(options, catalog, order, ranks); });
    if (ranks.is_root()) fmt::print("{} is complete\n", options.output.native());
    return kExitDone;
  }

  nlohmann::json written;
  mpi::together(ranks, [&] { written = write_shards(options, catalog, order, ranks); });
  if (mpi::any_asked_to_stop(ranks)) {
    if (ranks.is_root()) log::line("interrupted; the same command packs the tiles from the start");
    return kExitInterrupted;
  }
  const std::vector<std::uint8_t> lines = nlohmann::json::to_cbor(written);
  const std::vector<Bytes> all = ranks.gather(std::as_bytes(std::span(lines)));
  mpi::together(ranks, [&] {
    if (!ranks.is_root()) return;
    const ShardSet set = index_of(catalog, all);
    // Where tiles lie goes with them.
    const Path corners = options.tiles / tile_folder::kSummaries;
    std::error_code error;
    if (std::filesystem::is_regular_file(corners, error))
      write_file(options.output / tile_folder::kSummaries,
                 read_file(corners, std::uint64_t{1} << 40));
    write_shard_index(options.output, set);
    const double seconds = seconds_since(began);
    double bytes = 0;
    for (const ShardEntry& entry : set.entries) bytes += entry.size_bytes;
    fmt::print("{}: {} tiles, {}, in {} shard{} in {}, {:.0f} tiles/s\n", options.output.native(),
               order.size(), format_bytes(bytes), set.shards.size(),
               set.shards.size() == 1 ? "" : "s", format_duration(seconds),
               static_cast<double>(order.size()) / seconds);
  });
  return kExitDone;
}

int verify(const Path& folder, const mpi::Communicator& ranks) {
  ShardSet set;
  std::int64_t faults = 0;
  mpi::together(ranks, [&] {
    if (!has_shard_index(folder)) {
      throw InputError("verify", folder.native(),
                       fmt::format("it holds no packed shards: there is no '{}'", kShardIndexName),
                       "name a folder that quadrat-pack wrote");
    }
    set = read_shard_index(folder);
    for (const ShardFault& fault :
         verify_shards(folder, set, static_cast<std::size_t>(ranks.rank()),
                       static_cast<std::size_t>(ranks.size()))) {
      fmt::print("{}\t{}\n", fault.shard, fault.finding);
      std::fflush(stdout);
      ++faults;
    }
  });
  if (mpi::any_asked_to_stop(ranks)) {
    if (ranks.is_root()) log::line("interrupted; the same command verifies from the start");
    return kExitInterrupted;
  }
  faults = ranks.sum(faults);
  if (ranks.is_root()) {
    const std::string verdict =
        faults == 0 ? "all as they were packed"
                    : fmt::format("{} shard{} damaged", faults, faults == 1 ? " is" : "s are");
    fmt::print("{}: {} tiles in {} shard{}: {}\n", folder.native(), set.entries.size(),
               set.shards.size(), set.shards.size() == 1 ? "" : "s", verdict);
  }
  if (faults == 0) return kExitDone;
  throw Error::shared(
      ErrorKind::kInput,
      fmt::format("cannot trust '{}': {} of its {} shards {} not as packed; copy or "
                  "pack them again",
                  folder.native(), faults, set.shards.size(), faults == 1 ? "is" : "are"));
}

}  // namespace

int main(int argc, char** argv) {
  PackOptions options;
  cli::Parser parser(
      "quadrat-pack",
      "packs tiles into .tar shards (WebDataset layout) with an index, shards.tsv: a few large "
      "files "
      "for a file server, read by quadrat-finetune and quadrat-score like folders",
      "  quadrat-pack --tiles tiles/train --output shards/train\n"
      "  quadrat-pack --verify shards/train\n"
      "  mpirun -n 8 quadrat-pack --tiles county --output county_shards --tiles_per_shard 8192\n");
  parser.add("tiles", options.tiles, "DIR", "class folders of PNGs, or PNGs");
  parser.add("output,o", options.output, "DIR",
             "a new folder for the shards; packed with other options or other tiles it is refused");
  parser.add("tiles_per_shard", options.tiles_per_shard, "N", "tiles in each shard");
  parser.add_choice(
      "order", options.order, {"auto", "shuffled", "sorted"},
      "auto: shuffled where tiles have classes, so that reading in order trains well; else sorted");
  parser.add("seed", options.seed, "N", "for the shuffled order");
  parser.add("verify", options.verify, "DIR",
             "instead of packing, read every tile of packed shards, compare "
             "checksums and name the shards that are damaged");

  return cli::run(parser, argc, argv, [&] {
    if (options.verify.empty() && (options.tiles.empty() || options.output.empty())) {
      throw UsageError("--tiles and --output are needed, or --verify alone (see --help)");
    }
    if (!options.verify.empty() && !(options.tiles.empty() && options.output.empty())) {
      throw UsageError("--verify stands alone: leave out --tiles and --output");
    }
    if (options.tiles_per_shard < 1) {
      throw UsageError(
          fmt::format("--tiles_per_shard is {}, but must be at least 1", options.tiles_per_shard));
    }
    catch_stop_signals();
    const mpi::Environment mpi;
    const auto ranks = mpi::Communicator::world();
    log::set_origin(parser.program(), ranks.size() > 1 ? ranks.rank() : -1);
    return options.verify.empty() ? pack(options, ranks) : verify(options.verify, ranks);
  });
}
