#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <iostream>
#include <nlohmann/json.hpp>

#include "quadrat/base/error.h"
#include "quadrat/base/log.h"
#include "quadrat/base/progress.h"
#include "quadrat/base/random.h"
#include "quadrat/base/text.h"
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

/// Whether the output holds just these tiles, packed already. @throws InputError where something
/// else is there
bool is_packed(const PackOptions& options, const Catalog& catalog) {
  std::error_code error;
  if (!std::filesystem::exists(options.output, error)) return false;
  if (has_shard_index(options.output)) {
    const ShardSet set = read_shard_index(options.output);
    std::vector<std::string> there;
    for (const ShardEntry& entry : set.entries) there.push_back(entry.key + ".png");
    std::sort(there.begin(), there.end());
    const bool same =
        there.size() == catalog.tiles.size() &&
        std::equal(there.begin(), there.end(), catalog.tiles.begin(),
                   [](const std::string& name, const Tile& tile) { return name == tile.name; });
    if (same) return true;
    throw InputError("pack into", options.output.native(),
                     fmt::format("it holds {} other tiles, packed already", there.size()),
                     "name another --output");
  }
  for (const auto& entry : std::filesystem::directory_iterator(options.output)) {
    const std::string name = entry.path().filename().string();
    // Shards without an index are what a killed quadrat-pack leaves: they are packed again.
    const bool ours = name.starts_with(".tiles-") ||
                      (name.starts_with("tiles-") && name.ends_with(".tar")) ||
                      name == "tile_summaries.csv";
    if (!ours) {
      throw InputError("pack into", options.output.native(),
                       fmt::format("it is not empty: it holds '{}'", printable(name)),
                       "name a new folder");
    }
  }
  return false;
}

int pack(const PackOptions& options, const mpi::Communicator& ranks) {
  const auto began = std::chrono::steady_clock::now();
  Bytes packed;
  bool complete = false;
  mpi::together(ranks, [&] {
    if (!ranks.is_root()) return;
    const Catalog catalog = list_tiles(options.tiles);
    complete = is_packed(options, catalog);
    if (!complete) make_folder(options.output);
    packed = catalog.serialize();
  });
  complete = ranks.sum(static_cast<std::int64_t>(complete ? 1 : 0)) > 0;
  if (complete) {
    if (ranks.is_root()) std::cout << fmt::format("{} is complete\n", options.output.native());
    return kExitDone;
  }
  const Catalog catalog = Catalog::deserialize(ranks.broadcast(std::move(packed)));
  const std::vector<std::size_t> order = packing_order(catalog, options);
  const auto per_shard = static_cast<std::size_t>(options.tiles_per_shard);
  const std::size_t count = (order.size() + per_shard - 1) / per_shard;

  nlohmann::json mine = nlohmann::json::array();
  double bytes = 0;
  mpi::together(ranks, [&] {
    TileReader reader(catalog);
    Bytes png;
    Progress bar("packing", "tiles", order.size(), ranks.is_root());
    for (auto shard = static_cast<std::size_t>(ranks.rank()); shard < count;
         shard += static_cast<std::size_t>(ranks.size())) {
      ShardWriter writer(options.output / fmt::format("tiles-{:06}.tar", shard));
      for (std::size_t i = shard * per_shard; i < std::min(order.size(), (shard + 1) * per_shard);
           ++i) {
        const Tile& tile = catalog.tiles[order[i]];
        reader.read(order[i], png);
        const ShardEntry entry = writer.add(key_of(tile), tile.label, png);
        mine.push_back({shard, order[i], entry.offset, entry.size_bytes, entry.crc32});
        bytes += static_cast<double>(png.size());
        bar.update(i + 1);
      }
      writer.close();
    }
  });
  const std::vector<std::uint8_t> lines = nlohmann::json::to_cbor(mine);
  const std::vector<Bytes> all = ranks.gather(std::as_bytes(std::span(lines)));
  mpi::together(ranks, [&] {
    if (!ranks.is_root()) return;
    ShardSet set;
    for (std::size_t shard = 0; shard < count; ++shard)
      set.shards.push_back(fmt::format("tiles-{:06}.tar", shard));
    for (const Bytes& part : all) {
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
    // Where tiles lie goes with them.
    const Path corners = options.tiles / "tile_summaries.csv";
    std::error_code error;
    if (std::filesystem::is_regular_file(corners, error)) {
      write_file(options.output / "tile_summaries.csv", read_file(corners, std::uint64_t{1} << 40));
    }
    write_shard_index(options.output, set);
  });
  std::vector<double> total{bytes};
  ranks.sum(total);
  if (ranks.is_root()) {
    const double seconds =
        std::chrono::duration<double>(std::chrono::steady_clock::now() - began).count();
    std::cout << fmt::format("{}: {} tiles, {}, in {} shard{} in {}, {:.0f} tiles/s\n",
                             options.output.native(), order.size(), format_bytes(total[0]), count,
                             count == 1 ? "" : "s", format_duration(seconds),
                             static_cast<double>(order.size()) / seconds);
  }
  return kExitDone;
}

int verify(const Path& folder, const mpi::Communicator& ranks) {
  ShardSet set;
  std::int64_t faults = 0;
  mpi::together(ranks, [&] {
    set = read_shard_index(folder);
    for (const ShardFault& fault :
         verify_shards(folder, set, static_cast<std::size_t>(ranks.rank()),
                       static_cast<std::size_t>(ranks.size()))) {
      std::cout << fault.shard << '\t' << fault.finding << '\n' << std::flush;
      ++faults;
    }
  });
  faults = ranks.sum(faults);
  if (ranks.is_root()) {
    const std::string verdict =
        faults == 0 ? "all as they were packed"
                    : fmt::format("{} shard{} damaged", faults, faults == 1 ? " is" : "s are");
    std::cout << fmt::format("{}: {} tiles in {} shard{}: {}\n", folder.native(),
                             set.entries.size(), set.shards.size(),
                             set.shards.size() == 1 ? "" : "s", verdict);
  }
  return faults == 0 ? kExitDone : kExitFailed;
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
  parser.add("output,o", options.output, "DIR", "a new folder for the shards");
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
    const mpi::Environment mpi;
    const auto ranks = mpi::Communicator::world();
    log::set_origin(parser.program(), ranks.size() > 1 ? ranks.rank() : -1);
    return options.verify.empty() ? pack(options, ranks) : verify(options.verify, ranks);
  });
}
