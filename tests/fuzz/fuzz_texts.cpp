// Any bytes as one of the text files that programs read and people edit: refused with an error of
// ours, or taken for something that holds together. The first letter says which.
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "geo/cutter.h"
#include "geo/journal.h"
#include "geo/plan.h"
#include "quadrat/base/error.h"
#include "quadrat/cli/parser.h"
#include "quadrat/geo/land_cover.h"
#include "quadrat/report/county.h"
#include "quadrat/tiles/shard.h"

namespace {

using namespace quadrat;

[[noreturn]] void fail(const char* what) {
  std::fprintf(stderr, "fuzz_texts: %s\n", what);
  std::abort();
}

/// For readers that take a path; removed at the end.
class Folder {
 public:
  Folder() {
    std::string name = (std::filesystem::temp_directory_path() / "quadrat_fuzz_XXXXXX").string();
    if (::mkdtemp(name.data()) == nullptr) fail("no temporary folder");
    path_ = name;
    put("tiles-000000.tar", std::string(1 << 16, 'x'));
  }
  ~Folder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  Path put(const char* name, std::string_view content) const {
    const Path path = path_ / name;
    std::FILE* file = std::fopen(path.c_str(), "wb");
    if (file == nullptr || std::fwrite(content.data(), 1, content.size(), file) != content.size())
      fail("cannot write");
    std::fclose(file);
    return path;
  }
  const Path& path() const { return path_; }

 private:
  Path path_;
};

std::vector<geo::SurveyedImage> images() {
  std::vector<geo::SurveyedImage> result(2);
  result[0].name = std::string("a");
  result[1].name = std::string("b");
  for (geo::SurveyedImage& image : result) {
    image.fingerprint = "9.1.2";
    image.columns = 3;
    image.rows = 4;
  }
  return result;
}

void read_class_table(std::string_view text) {
  const geo::ClassTable table = geo::ClassTable::parse(text, "t.csv");
  const auto count = static_cast<int>(table.classes().size());
  if (count < 1 || count > static_cast<int>(geo::ClassTable::kMaxClasses))
    fail("number of classes");
  if (!std::is_sorted(table.classes().begin(), table.classes().end())) fail("order of classes");
  for (int code = -1; code < 300; ++code) {
    if (table.class_of(code) < geo::ClassTable::kNoClass || table.class_of(code) >= count)
      fail("class out of range");
  }
}

void read_manifest(std::string_view text) {
  const geo::CutPlan plan = geo::read_manifest(text, "m.csv", images());
  Bytes stored = plan.serialize();
  if (geo::CutPlan::deserialize(stored, images()).serialize() != stored) fail("another plan");
  // The stored plan is no text: its damage is a function of this one.
  std::uint64_t random = text.size();
  for (const char c : text) random = random * 6364136223846793005U + static_cast<unsigned char>(c);
  for (int i = 0; i < 3; ++i) {
    random = random * 6364136223846793005U + 1442695040888963407U;
    stored[(random >> 33) % stored.size()] = static_cast<std::byte>(random >> 25);
  }
  const geo::CutPlan damaged = geo::CutPlan::deserialize(stored, images());
  for (const auto& tiles : damaged.images) {
    for (const geo::PlannedTile& tile : tiles) {
      if (tile.label >= std::ssize(damaged.classes)) fail("label out of range");
    }
  }
}

void read_journal(std::string_view text) {
  geo::for_each_cut_tile(
      text, images(), [](std::size_t image, std::int64_t row, const geo::CutTile& tile) {
        if (image > 1 || row < 0 || row > 3 || tile.column < 0 || tile.column > 2) {
          fail("a tile beyond the image");
        }
      });
}

void read_tiles_json(std::string_view text) {
  geo::asked_in_report(text, "tiles.json");
  geo::read_report(text, "tiles.json");
}

void read_shard_index(const Folder& folder, std::string_view text) {
  folder.put(kShardIndexName, text);
  const ShardSet set = quadrat::read_shard_index(folder.path());
  ShardReader reader(folder.path(), set.shards);
  Bytes buffer;
  for (const ShardEntry& entry : set.entries) {
    if (entry.shard >= set.shards.size()) fail("no such shard");
    if (entry.offset + entry.size_bytes > 1 << 16) fail("an entry beyond its shard");
    try {
      reader.read(entry.shard, entry.offset, entry.size_bytes, entry.crc32, buffer);
    } catch (const InputError&) {
      // Its checksum is another: these bytes are no tile.
    }
  }
}

void read_corners(const Folder& folder, std::string_view text) {
  ScoreRecord record;
  record.predictions.tiles = {"a_0.png", "b/c_1.png"};
  report::add_corners(record, folder.put("tile_summaries.csv", text));
  if (record.corners.size() != 2) fail("tiles without corners");
}

void read_configuration(const Folder& folder, std::string_view text) {
  cli::Parser parser("fuzz", "reads", "");
  std::string name, choice = "auto";
  Path folder_option;
  std::int64_t number = 3;
  double fraction = 0.5;
  bool is_on = false;
  std::vector<std::string> many;
  parser.add("name,n", name, "NAME", "");
  parser.add("output", folder_option, "DIR", "");
  parser.add("num_epochs", number, "N", "");
  parser.add("fraction", fraction, "X", "");
  parser.add("balance", is_on, "");
  parser.add("image", many, "FILE...", "");
  parser.add_choice("order", choice, {"auto", "sorted"}, "");
  const std::string file = folder.put("config.ini", text).native();
  const char* const arguments[] = {"fuzz", "-c", file.c_str()};
  if (!parser.parse(3, arguments)) fail("--help from a file");
  if (choice != "auto" && choice != "sorted") fail("no such choice");
  parser.as_used();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const Folder folder;
  if (size == 0) return 0;
  std::string_view text(reinterpret_cast<const char*>(data), size);
  const char kind = text.front();
  text.remove_prefix(std::min(text.find('\n'), text.size() - 1) + 1);
  try {
    switch (kind) {
      case 'c':
        read_class_table(text);
        break;
      case 'm':
        read_manifest(text);
        break;
      case 'j':
        read_journal(text);
        break;
      case 't':
        read_tiles_json(text);
        break;
      case 's':
        read_shard_index(folder, text);
        break;
      case 'p':
        read_corners(folder, text);
        break;
      case 'i':
        read_configuration(folder, text);
        break;
      default:
        break;
    }
  } catch (const Error&) {
  }
  return 0;
}

void repair(std::vector<std::uint8_t>&) {}
