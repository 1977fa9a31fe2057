#include "quadrat/report/report.h"

#include <fmt/format.h>

#include <algorithm>

#include "html.h"
#include "quadrat/base/error.h"
#include "quadrat/base/text.h"
#include "quadrat/base/version.h"
#include "quadrat/report/run_list.h"
#include "sections.h"

namespace quadrat::report {

namespace fs = std::filesystem;

namespace {

/// A name below `folder`, or a path to a record or to the folder it is in.
Path record_path(const Path& folder, const std::string& name, const char* file) {
  if (is_plain_name(name)) return folder / name / file;
  const Path path(name);
  std::error_code error;
  return fs::is_directory(path, error) ? path / file : path;
}

void require_there(const char* what, const std::string& name, const Path& path) {
  std::error_code error;
  if (fs::exists(path, error)) return;
  std::vector<std::string> there;
  const Path folder = path.parent_path().parent_path();
  for (fs::directory_iterator it(folder, error), end; !error && it != end; it.increment(error)) {
    there.push_back(it->path().filename().string());
  }
  const std::string near = closest(name, there);
  throw InputError(fmt::format("find {}", what), name,
                   fmt::format("there is no '{}'", path.native()),
                   near.empty() ? "" : fmt::format("did you mean '{}'?", near));
}

std::string display_name(const std::string& name) {
  if (is_plain_name(name)) return name;
  Path path(name);
  if (path.extension() == ".h5") path = path.parent_path();
  if (!path.has_filename()) path = path.parent_path();
  return path.filename().string();
}

ScoreRecord load_scores(const ReportOptions& options, const std::string& name) {
  const Path path = record_path(options.scores_folder, name, "scores.h5");
  require_there("scores", name, path);
  return read_score_record(path);
}

County load_county(const ReportOptions& options, std::vector<std::string>& notes) {
  County county;
  county.record = load_scores(options, options.scores);
  county.name = display_name(options.scores);
  if (!options.tile_summaries.empty()) add_corners(county.record, options.tile_summaries);
  if (!county.record.corners.empty()) {
    county.grid = find_grid(county.record.corners);
    county.smoothed =
        smooth(*county.grid, county.record.predictions.predicted, county.record.classes.size());
  }
  if (options.versus.empty()) return county;
  const Path now_path = record_path(options.scores_folder, options.scores, "scores.h5");
  const Path before_path = record_path(options.scores_folder, options.versus, "scores.h5");
  std::error_code error;
  if (std::filesystem::equivalent(now_path, before_path, error)) {
    throw UsageError(fmt::format("--scores and --versus are both '{}'; name two scorings",
                                 before_path.native()));
  }
  county.before = load_scores(options, options.versus);
  const std::string model_now = setting(county.record.environment, "model_crc32");
  const std::string model_before = setting(county.before->environment, "model_crc32");
  if (model_now != model_before) {
    notes.push_back(
        fmt::format("{} and {} were classified by different models: what changed may be the model",
                    display_name(options.versus), county.name));
  }
  county.before_name = display_name(options.versus);
  // A set cut by the same grid has the same names: then one file of corners does for both.
  if (county.before->corners.empty() && !options.tile_summaries.empty() &&
      county.before->predictions.tiles == county.record.predictions.tiles) {
    county.before->corners = county.record.corners;
  }
  county.pairs = match(*county.before, county.record, county.grid ? &*county.grid : nullptr);
  if (county.grid && !county.before->corners.empty()) {
    const TileGrid grid = find_grid(county.before->corners);
    county.smoothed_before =
        smooth(grid, county.before->predictions.predicted, county.before->classes.size());
  }
  const std::size_t tiles =
      county.grid ? county.grid->shown() : county.record.predictions.tiles.size();
  const std::size_t alone = tiles - county.pairs.size();
  if (alone > 0)
    notes.push_back(
        fmt::format("{} tiles of {} are not in {}", alone, county.name, county.before_name));
  return county;
}

std::string status_badge(const std::string& what, RunStatus status) {
  if (status == RunStatus::kComplete) return "";
  return fmt::format("<p class=\"badge\">{} is {}: what follows is how far it has come.</p>", what,
                     to_string(status));
}

constexpr std::string_view kBeside = "<p id=\"beside\">";

/// What the page in the folder says lies beside it, as its footer has it; "" where none of ours
/// does.
std::string beside_page(const Path& index) {
  std::error_code error;
  if (!fs::is_regular_file(index, error)) return "";
  const Bytes bytes = read_file(index);
  std::string_view html(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  const std::size_t at = html.rfind(kBeside);
  if (at == std::string_view::npos) return "";
  html.remove_prefix(at + kBeside.size());
  return std::string(html.substr(0, html.find('<')));
}

/// Removes what an earlier report wrote and this one does not. Files of these names that no page of
/// ours speaks of are somebody's own.
void remove_leftovers(const Path& folder, const std::string& beside,
                      const std::vector<Path>& files) {
  for (const char* name : {"map.tif", "map_smoothed.tif", "tiles.gpkg", "changes.csv"}) {
    const Path path = folder / name;
    if (beside.find(name) == std::string::npos ||
        std::find(files.begin(), files.end(), path) != files.end())
      continue;
    std::error_code ignored;
    fs::remove(path, ignored);
    fs::remove(Path(path) += ".aux.xml", ignored);
  }
}

std::string page(const std::string& title, const std::string& lede, const std::string& badges,
                 const std::vector<Figure>& figures, const std::vector<Section>& sections,
                 const std::string& settings, const std::vector<std::string>& notes,
                 const std::vector<Path>& files) {
  std::string nav, body, head;
  for (const Section& section : sections) {
    nav += fmt::format("<li><a href=\"#{}\">{}</a></li>", section.id, escape(section.short_title));
    body += fmt::format(
        "<section id=\"{0}\" aria-labelledby=\"{0}-title\"><h2 "
        "id=\"{0}-title\">{1}</h2>{2}</section>\n",
        section.id, escape(section.title), section.html);
  }
  for (const Figure& figure : figures) {
    head += fmt::format("<div><dt>{}</dt><dd>{}</dd></div>", escape(figure.label),
                        escape(figure.value));
  }
  std::string remarks;
  for (const std::string& note : notes) remarks += fmt::format("<li>{}</li>", escape(note));
  if (!remarks.empty()) remarks = "<ul class=\"notes\">" + remarks + "</ul>";
  std::vector<std::string> beside;
  for (const Path& file : files) beside.push_back(file.filename().string());
  if (!beside.empty())
    remarks += fmt::format("{}Beside this page: {}.</p>", kBeside, enumerate(beside));
  return fmt::format(
      "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n"
      "<meta name=\"viewport\" content=\"width=device-width, "
      "initial-scale=1\">\n<title>{}</title>\n<style>\n{}</style>\n</head>\n"
      "<body>\n<a class=\"skip\" href=\"#content\">To the content</a>\n<header><h1>{}</h1><p "
      "class=\"lede\">{}</p>{}<dl class=\"figures\">{}</dl>"
      "<nav aria-label=\"Parts of this page\"><ul>{}</ul></nav></header>\n<main id=\"content\">\n{}"
      "<section id=\"settings\" aria-labelledby=\"settings-title\"><h2 "
      "id=\"settings-title\">Settings</h2>{}</section>\n</main>\n"
      "<footer>{}<p>Made by quadrat-report {} on "
      "{}.</p></footer>\n<script>\n{}</script>\n</body>\n</html>\n",
      escape(title), kPageStyle, escape(title), lede, badges, head,
      nav + "<li><a href=\"#settings\">Settings</a></li>", body, settings, remarks, version(),
      utc_now().substr(0, 10), kPageScript);
}

}  // namespace

ReportResult write_report(const ReportOptions& options) {
  if (options.run.empty() && options.scores.empty())
    throw UsageError("name what to report on: --run NAME, --scores NAME or both");
  if (!options.versus.empty() && options.scores.empty())
    throw UsageError("--versus needs --scores NAME, the later map to compare with");
  if (!options.tile_summaries.empty() && options.scores.empty())
    throw UsageError("--tile_summaries needs --scores NAME, whose tiles it places");
  if (options.output.empty()) throw UsageError("--output is missing (see --help)");

  ReportResult result;
  std::vector<Section> sections;
  std::vector<Figure> figures;
  std::string title, lede, badges, settings;
  std::vector<Path> files;
  std::optional<County> county;
  if (!options.scores.empty()) county = load_county(options, result.notes);
  std::optional<RunRecord> run;
  if (!options.run.empty()) {
    const Path path = record_path(options.runs, options.run, "run.h5");
    require_there("run", options.run, path);
    run = read_run_record(path);
  }
  make_folder(options.output);
  if (county) {
    title = fmt::format("Land use of {}", county->name);
    if (county->before) title += fmt::format(", compared with {}", county->before_name);
    badges += status_badge("The scoring of " + escape(county->name), county->record.status);
    figures = county_figures(*county);
    sections = county_sections(*county, result.notes);
    files = write_county_files(*county, options.output, result.notes);
    settings += settings_section(fmt::format("Scoring of {}", county->name), county->record.config,
                                 county->record.environment);
  }
  if (run) {
    const std::string name = run->name.empty() ? display_name(options.run) : run->name;
    if (title.empty()) title = fmt::format("Training run {}", name);
    const std::string scored_with =
        county ? setting(county->record.config, "output_model_name") : "";
    if (!scored_with.empty() && !run->name.empty() && scored_with != run->name) {
      result.notes.push_back(
          fmt::format("{} was classified by model {}, and the training shown is that of {}",
                      county->name, scored_with, run->name));
    }
    lede = fmt::format(
        "Model <b>{}</b>{}{}, {}.", escape(name), model_of(*run).empty() ? "" : ": ",
        escape(model_of(*run)),
        run->created.empty() ? "undated" : "begun " + escape(run->created.substr(0, 10)));
    badges += status_badge("The training of " + escape(name), run->status);
    const std::vector<Figure> more = run_figures(*run);
    figures.insert(county ? figures.end() : figures.begin(), more.begin(), more.end());
    const Path tiles =
        options.validation.empty() ? Path(setting(run->config, "validation")) : options.validation;
    for (Section& section : run_sections(*run, tiles, result.notes))
      sections.push_back(std::move(section));
    settings +=
        settings_section(fmt::format("Training of {}", name), run->config, run->environment);
  } else {
    const std::string model = setting(county->record.config, "output_model_name");
    lede = model.empty() ? "" : fmt::format("Classified by model <b>{}</b>.", escape(model));
  }
  if (county && !county->record.rejected.empty())
    sections.push_back(rejected_section(county->record));
  const Path index = options.output / "index.html";
  remove_leftovers(options.output, beside_page(index), files);
  write_file(index, page(title, lede, badges, figures, sections, settings, result.notes, files));
  result.files.push_back(index);
  result.files.insert(result.files.end(), files.begin(), files.end());
  return result;
}

}  // namespace quadrat::report
