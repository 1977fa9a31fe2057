#include "quadrat/tiles/catalog.h"

#include <fmt/format.h>
#include <libdeflate.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <map>

#include "quadrat/base/error.h"
#include "quadrat/base/random.h"
#include "quadrat/base/text.h"
#include "quadrat/base/tile_folder.h"
#include "quadrat/tiles/shard.h"

namespace quadrat {

namespace fs = std::filesystem;

namespace {

bool is_hidden(const Path& path) { return path.filename().string().starts_with('.'); }

InputError unfinished(const Path& folder) {
  return InputError("list tiles in", folder.native(), "they are not all cut yet",
                    "start the same quadrat-cut again to finish it");
}

struct Entries {
  std::vector<std::string> files;
  std::vector<std::string> folders;
};

/// Names in a folder, sorted, hidden ones left out. The kind comes with the entry; nothing is
/// stat-ed on NFS. @throws InputError, also where tiles are still to be cut into it
Entries list_folder(const Path& folder) {
  Entries entries;
  std::error_code error;
  for (fs::directory_iterator it(folder, error), end; !error && it != end; it.increment(error)) {
    if (it->path().filename() == tile_folder::kUnfinished) throw unfinished(folder);
    if (is_hidden(it->path())) continue;
    std::error_code ignored;
    auto& kind = it->is_directory(ignored) ? entries.folders : entries.files;
    kind.push_back(it->path().filename().string());
  }
  if (error) {
    if (error == std::errc::no_such_file_or_directory) {
      throw InputError("list tiles in", folder.native(), "there is no such folder",
                       "check the path");
    }
    if (error == std::errc::not_a_directory) {
      throw InputError("list tiles in", folder.native(), "it is not a folder",
                       "name the folder that holds the tiles");
    }
    errno = error.value();
    throw IoError::from_errno("list tiles in", folder.native());
  }
  std::sort(entries.files.begin(), entries.files.end());
  std::sort(entries.folders.begin(), entries.folders.end());
  return entries;
}

/// What the folder given holds. @throws InputError, also where it is part of an unfinished cut,
/// whose tiles are OUTPUT/[SET/][CLASS/]NAME.png
Entries list_root(const Path& root) {
  Entries entries = list_folder(root);
  for (const char* above : {"..", "../.."}) {
    std::error_code ignored;
    if (fs::exists(root / above / tile_folder::kUnfinished, ignored)) throw unfinished(root);
  }
  return entries;
}

void add_pngs(Catalog& catalog, const std::vector<std::string>& files, const std::string& prefix,
              std::int32_t label) {
  for (const std::string& file : files) {
    const std::string extension = Path(file).extension().native();
    if (extension == ".PNG") {
      // In a shard the name would end in .png, which another tile's may.
      throw InputError("list tiles in", catalog.root.native(),
                       fmt::format("the name of '{}' ends in .PNG", printable(prefix + file)),
                       "rename such files to end in .png");
    }
    if (extension != ".png") continue;
    Tile tile;
    tile.name = prefix + file;
    tile.label = label;
    catalog.tiles.push_back(std::move(tile));
  }
}

/// As packed tiles are, whatever the order of their folders: "a-b/1" comes before "a/1".
void sort_by_name(Catalog& catalog) {
  std::sort(catalog.tiles.begin(), catalog.tiles.end(),
            [](const Tile& a, const Tile& b) { return a.name < b.name; });
}

void add_pngs_below(Catalog& catalog, const Path& folder, const std::string& prefix,
                    std::int32_t label, int depth) {
  constexpr int kMaxDepth = 16;  // a link that leads back up must end somewhere
  if (depth > kMaxDepth) return;
  const Entries entries = list_folder(folder);
  add_pngs(catalog, entries.files, prefix, label);
  for (const std::string& name : entries.folders) {
    add_pngs_below(catalog, folder / name, prefix + name + "/", label, depth + 1);
  }
}

void require_plain_class(const Path& root, const std::string& name) {
  if (is_plain_name(name)) return;
  throw InputError("use class folder", (root / name).native(),
                   "a class name has letters, digits, '-' and '_' and nothing else",
                   "rename the folder");
}

/// Shards carry class names; indices follow the sorted names, as for folders.
bool add_shards(Catalog& catalog, const Path& root) {
  if (!has_shard_index(root)) return false;
  const ShardSet set = read_shard_index(root);
  std::map<std::string, std::int32_t> classes;
  bool all_labelled = !set.entries.empty();
  for (const ShardEntry& entry : set.entries) {
    if (entry.label.empty()) {
      all_labelled = false;
    } else {
      classes.emplace(entry.label, 0);
    }
  }
  if (all_labelled) {
    for (auto& [name, index] : classes) {
      require_plain_class(root, name);
      index = static_cast<std::int32_t>(catalog.classes.size());
      catalog.classes.push_back(name);
    }
  }
  catalog.shards = set.shards;
  for (const ShardEntry& entry : set.entries) {
    Tile tile;
    tile.name = entry.key + ".png";
    tile.label = all_labelled ? classes.at(entry.label) : Tile::kNoLabel;
    tile.shard = static_cast<std::int32_t>(entry.shard);
    tile.offset = entry.offset;
    tile.size_bytes = entry.size_bytes;
    tile.crc32 = entry.crc32;
    catalog.tiles.push_back(std::move(tile));
  }
  std::sort(catalog.tiles.begin(), catalog.tiles.end(),
            [](const Tile& a, const Tile& b) { return a.name < b.name; });
  return true;
}

class Writer {
 public:
  template <typename T>
  void number(T value) {
    const auto* bytes = reinterpret_cast<const std::byte*>(&value);
    bytes_.insert(bytes_.end(), bytes, bytes + sizeof value);
  }
  void text(const std::string& value) {
    number(static_cast<std::uint32_t>(value.size()));
    const auto* bytes = reinterpret_cast<const std::byte*>(value.data());
    bytes_.insert(bytes_.end(), bytes, bytes + value.size());
  }
  void texts(const std::vector<std::string>& values) {
    number(static_cast<std::uint64_t>(values.size()));
    for (const std::string& value : values) text(value);
  }
  Bytes take() { return std::move(bytes_); }

 private:
  Bytes bytes_;
};

class Reader {
 public:
  explicit Reader(std::span<const std::byte> bytes) : bytes_(bytes) {}

  template <typename T>
  T number() {
    T value;
    std::memcpy(&value, take(sizeof value).data(), sizeof value);
    return value;
  }
  std::string text() {
    const auto size = number<std::uint32_t>();
    const auto raw = take(size);
    return {reinterpret_cast<const char*>(raw.data()), raw.size()};
  }
  std::vector<std::string> texts() {
    std::vector<std::string> values(number<std::uint64_t>());
    for (std::string& value : values) value = text();
    return values;
  }

 private:
  std::span<const std::byte> take(std::size_t size) {
    if (size > bytes_.size()) throw CommError("receive the list of tiles", "", "it was cut short");
    const auto part = bytes_.first(size);
    bytes_ = bytes_.subspan(size);
    return part;
  }

  std::span<const std::byte> bytes_;
};

}  // namespace

Bytes Catalog::serialize() const {
  Writer writer;
  writer.text(root.native());
  writer.texts(classes);
  writer.texts(shards);
  writer.number(static_cast<std::uint64_t>(tiles.size()));
  for (const Tile& tile : tiles) {
    writer.text(tile.name);
    writer.number(tile.label);
    writer.number(tile.shard);
    writer.number(tile.offset);
    writer.number(tile.size_bytes);
    writer.number(tile.crc32);
  }
  return writer.take();
}

Catalog Catalog::deserialize(std::span<const std::byte> bytes) {
  Reader reader(bytes);
  Catalog catalog;
  catalog.root = reader.text();
  catalog.classes = reader.texts();
  catalog.shards = reader.texts();
  catalog.tiles.resize(reader.number<std::uint64_t>());
  for (Tile& tile : catalog.tiles) {
    tile.name = reader.text();
    tile.label = reader.number<std::int32_t>();
    tile.shard = reader.number<std::int32_t>();
    tile.offset = reader.number<std::uint64_t>();
    tile.size_bytes = reader.number<std::uint32_t>();
    tile.crc32 = reader.number<std::uint32_t>();
  }
  return catalog;
}

std::uint32_t Catalog::checksum() const {
  Catalog rootless = *this;
  rootless.root.clear();
  const Bytes bytes = rootless.serialize();
  return libdeflate_crc32(0, bytes.data(), bytes.size());
}

Catalog list_labelled_tiles(const Path& root) {
  Catalog catalog;
  catalog.root = root;
  const Entries entries = list_root(root);
  if (add_shards(catalog, root)) {
    if (catalog.classes.empty()) {
      throw InputError("use shards in", root.native(), "their tiles carry no class",
                       "pack class folders");
    }
    return catalog;
  }
  if (entries.folders.empty()) {
    throw InputError("list tiles in", root.native(), "it holds no class folder",
                     "arrange the tiles as <class>/<name>.png");
  }
  for (const std::string& name : entries.folders) {
    require_plain_class(root, name);
    const std::size_t before = catalog.tiles.size();
    add_pngs(catalog, list_folder(root / name).files, name + "/",
             static_cast<std::int32_t>(catalog.classes.size()));
    if (catalog.tiles.size() == before) {
      const bool is_a_level_up = !list_folder(root / name).folders.empty();
      throw InputError(
          "use class folder", (root / name).native(),
          is_a_level_up ? "it holds folders and no .png file" : "it holds no .png file",
          is_a_level_up ? fmt::format("if those are the classes, give '{}'", (root / name).native())
                        : "fill it or remove it");
    }
    catalog.classes.push_back(name);
  }
  sort_by_name(catalog);
  return catalog;
}

Catalog list_tiles(const Path& root) {
  Catalog catalog;
  catalog.root = root;
  const Entries entries = list_root(root);
  if (!add_shards(catalog, root)) {
    add_pngs(catalog, entries.files, "", Tile::kNoLabel);
    const bool labelled =
        catalog.tiles.empty() &&
        std::all_of(entries.folders.begin(), entries.folders.end(), is_plain_name);
    for (const std::string& name : entries.folders) {
      const std::size_t before = catalog.tiles.size();
      const auto label =
          labelled ? static_cast<std::int32_t>(catalog.classes.size()) : Tile::kNoLabel;
      add_pngs_below(catalog, root / name, name + "/", label, 1);
      if (labelled && catalog.tiles.size() > before) catalog.classes.push_back(name);
    }
    sort_by_name(catalog);
  }
  if (catalog.tiles.empty()) {
    throw InputError("list tiles in", root.native(), "it holds no .png file and no packed shard",
                     "name the folder that holds the tiles");
  }
  return catalog;
}

void sample_tiles(Catalog& catalog, double fraction, std::uint64_t seed) {
  if (!(fraction > 0 && fraction <= 1)) {
    throw UsageError(
        fmt::format("--sample_frac is {}, but must be above 0 and at most 1", fraction));
  }
  if (fraction == 1) return;
  std::map<std::int32_t, std::vector<std::size_t>> by_class;
  for (std::size_t i = 0; i < catalog.tiles.size(); ++i)
    by_class[catalog.tiles[i].label].push_back(i);
  std::vector<std::size_t> kept;
  for (auto& [label, members] : by_class) {
    KeyedRandom random({seed, kStreamSample, static_cast<std::uint64_t>(label)});
    shuffle(members, random);
    const auto wanted =
        static_cast<std::size_t>(std::llround(fraction * static_cast<double>(members.size())));
    members.resize(std::max<std::size_t>(1, wanted));
    kept.insert(kept.end(), members.begin(), members.end());
  }
  std::sort(kept.begin(), kept.end());
  std::vector<Tile> tiles;
  tiles.reserve(kept.size());
  for (const std::size_t i : kept) tiles.push_back(std::move(catalog.tiles[i]));
  catalog.tiles = std::move(tiles);
}

}  // namespace quadrat
