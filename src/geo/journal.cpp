#include "journal.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstdio>
#include <string_view>

#include "quadrat/base/error.h"

namespace quadrat::geo {

namespace {

constexpr std::string_view kPrefix = "rows.";

/// Cuts the text before the first `separator` off `rest`.
std::string_view take(std::string_view& rest, char separator) {
  const auto end = rest.find(separator);
  const std::string_view field = rest.substr(0, end);
  rest.remove_prefix(end == std::string_view::npos ? rest.size() : end + 1);
  return field;
}

template <typename T>
bool number(std::string_view text, T& value) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  return error == std::errc{} && end == text.data() + text.size();
}

/// @return whether the line is a whole one about these images as they are now
bool parse(std::string_view line, const std::vector<SurveyedImage>& images, CutRow& row) {
  if (!number(take(line, '\t'), row.image) || row.image >= images.size()) return false;
  const SurveyedImage& image = images[row.image];
  if (!number(take(line, '\t'), row.row) || row.row < 0 || row.row >= image.rows) return false;
  row.fingerprint = take(line, '\t');
  if (row.fingerprint != image.fingerprint) return false;
  while (!line.empty()) {
    std::string_view fields = take(line, ' ');
    CutTile tile;
    unsigned fate = 0;
    if (!number(take(fields, ':'), tile.column) || tile.column < 0 ||
        tile.column >= image.columns || !number(take(fields, ':'), fate) ||
        !number(take(fields, ':'), tile.file_bytes)) {
      return false;
    }
    tile.fate = static_cast<Fate>(fate);
    tile.corners = fields;
    row.tiles.push_back(std::move(tile));
  }
  return true;
}

}  // namespace

JournalWriter::JournalWriter(const Path& path) : path_(path) {
  do descriptor_ = ::open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
  while (descriptor_ < 0 && errno == EINTR);
  if (descriptor_ < 0) throw IoError::from_errno("create", path.native());
}

JournalWriter::~JournalWriter() { ::close(descriptor_); }

void JournalWriter::append(const CutRow& row) {
  std::string line = fmt::format("{}\t{}\t{}\t", row.image, row.row, row.fingerprint);
  for (const CutTile& tile : row.tiles) {
    if (&tile != &row.tiles.front()) line += ' ';
    line += fmt::format("{}:{}:{}:{}", tile.column, static_cast<unsigned>(tile.fate),
                        tile.file_bytes, tile.corners);
  }
  line += '\n';
  std::size_t done = 0;
  while (done < line.size()) {
    const ssize_t n = ::write(descriptor_, line.data() + done, line.size() - done);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) throw IoError::from_errno("write", path_.native());
    done += static_cast<std::size_t>(n);
  }
}

std::map<std::pair<std::size_t, std::int64_t>, CutRow> read_journals(
    const Path& folder, const std::vector<SurveyedImage>& images) {
  std::vector<Path> paths;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    if (entry.path().filename().native().starts_with(kPrefix)) paths.push_back(entry.path());
  }
  std::sort(paths.begin(), paths.end());
  std::map<std::pair<std::size_t, std::int64_t>, CutRow> rows;
  for (const Path& path : paths) {
    const Bytes content = read_file(path, std::uint64_t{1} << 40);
    std::string_view text(reinterpret_cast<const char*>(content.data()), content.size());
    while (text.find('\n') != std::string_view::npos) {
      CutRow row;
      if (!parse(take(text, '\n'), images, row)) continue;
      rows[{row.image, row.row}] = std::move(row);
    }
  }
  return rows;
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
