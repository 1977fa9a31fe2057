#include "journal.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <span>
#include <string_view>

#include "quadrat/base/error.h"
#include "quadrat/base/files.h"
#include "quadrat/base/text.h"

namespace quadrat::geo {

namespace {

constexpr std::string_view kPrefix = "rows.";

}  // namespace

std::string journal_line(std::size_t image, const SurveyedImage& surveyed, std::int64_t row,
                         std::span<const CutTile> tiles) {
  std::string line = fmt::format("{}\t{}\t{}\t", image, row, surveyed.fingerprint);
  for (const CutTile& tile : tiles) {
    if (&tile != &tiles.front()) line += ' ';
    line += fmt::format("{}:{}:{}", tile.column, static_cast<unsigned>(tile.fate), tile.file_bytes);
  }
  line += '\n';
  return line;
}

void for_each_cut_tile(std::string_view lines, const std::vector<SurveyedImage>& images,
                       const std::function<void(std::size_t, std::int64_t, const CutTile&)>& use) {
  std::vector<CutTile> tiles;
  const auto parse = [&](std::string_view line, std::size_t& image, std::int64_t& row) {
    if (!parse_number(take_until(line, '\t'), image) || image >= images.size()) return false;
    const SurveyedImage& surveyed = images[image];
    if (!parse_number(take_until(line, '\t'), row) || row < 0 || row >= surveyed.rows) return false;
    if (take_until(line, '\t') != surveyed.fingerprint) return false;
    tiles.clear();
    while (!line.empty()) {
      std::string_view fields = take_until(line, ' ');
      CutTile tile;
      std::uint8_t fate = 0;
      if (!parse_number(take_until(fields, ':'), tile.column) || tile.column < 0 ||
          tile.column >= surveyed.columns || !parse_number(take_until(fields, ':'), fate) ||
          !parse_number(fields, tile.file_bytes)) {
        return false;
      }
      tile.fate = static_cast<Fate>(fate);
      if (tile.fate != Fate::kKept && tile.fate != Fate::kBlack) return false;
      tiles.push_back(tile);
    }
    return true;
  };
  while (lines.find('\n') != std::string_view::npos) {
    std::size_t image = 0;
    std::int64_t row = 0;
    if (!parse(take_until(lines, '\n'), image, row)) continue;
    for (const CutTile& tile : tiles) use(image, row, tile);
  }
}

JournalWriter::JournalWriter(const Path& path) : path_(path) {
  do descriptor_ = ::open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
  while (descriptor_ < 0 && errno == EINTR);
  if (descriptor_ < 0) throw IoError::from_errno("create", path.native());
}

JournalWriter::~JournalWriter() { ::close(descriptor_); }

void JournalWriter::append(std::string_view line) {
  write_all(descriptor_, std::as_bytes(std::span(line)), "write", path_);
}

std::string read_journals(const Path& folder) {
  std::vector<Path> paths;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    if (entry.path().filename().native().starts_with(kPrefix)) paths.push_back(entry.path());
  }
  std::sort(paths.begin(), paths.end());
  std::string lines;
  for (const Path& path : paths) {
    const Bytes content = read_file(path, std::uint64_t{1} << 40);
    const std::string_view text(reinterpret_cast<const char*>(content.data()), content.size());
    lines += text.substr(0, text.rfind('\n') + 1);
  }
  return lines;
}

Path journal_path(const Path& folder, int attempt, int rank) {
  return folder / fmt::format("{}{:06}.{:06}.tsv", kPrefix, attempt, rank);
}

int next_attempt(const Path& folder) {
  int next = 0;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    int attempt = 0;
    const std::string name = entry.path().filename().string();
    if (std::sscanf(name.c_str(), "rows.%d.", &attempt) == 1) next = std::max(next, attempt + 1);
  }
  return next;
}

}  // namespace quadrat::geo
