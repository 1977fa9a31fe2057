#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "html.h"
#include "pictures.h"
#include "quadrat/base/progress.h"
#include "quadrat/report/analysis.h"
#include "quadrat/report/run_list.h"
#include "sections.h"

namespace quadrat::report {

namespace fs = std::filesystem;

namespace {

constexpr std::size_t kMistakes = 24;

Section curves(const RunRecord& run) {
  Section section{"training", "Training", "Training", ""};
  section.html = "<div class=\"charts\">" +
                 curve_chart(run, &EpochRow::train_error, &EpochRow::validation_error,
                             "Error, share of tiles misclassified", true) +
                 curve_chart(run, &EpochRow::train_loss, &EpochRow::validation_loss,
                             "Loss, cross-entropy in nats", false) +
                 "</div>";
  return section;
}

Section confusion(const RunRecord& run) {
  Section section{"confusion", "Confusion", "What is taken for what", ""};
  section.html = fmt::format(
      "<p class=\"intro\">Each row holds the validation tiles that truly are of one class; columns "
      "say what the model "
      "made of them. Shading is the share of the row: blue where right, orange where wrong.</p>{}",
      confusion_table(run.confusion, run.classes, "truth",
                      "All classes: tiles, and share of the true class"));
  if (const std::optional<Merged> merged = merge_as_sample(run.confusion, run.classes)) {
    section.html += fmt::format(
        "<h3>Three classes</h3><p class=\"intro\">Barren, Forest, Herbaceous and Shrub as one, "
        "\u201cUndeveloped\u201d: "
        "<strong>{}</strong> right.</p>{}",
        percent(1 - error_of(merged->confusion, 3)),
        confusion_table(merged->confusion, merged->classes, "truth",
                        "Three classes: tiles, and share of the true class"));
  }
  return section;
}

Section per_class(const RunRecord& run) {
  Section section{"classes", "Classes", "Class by class", ""};
  const std::vector<Rgb> colours = class_colours(run.classes);
  std::string rows;
  const std::vector<ClassMetrics> metrics = class_metrics(run.confusion, run.classes);
  const auto bar = [](double value) {
    return fmt::format(
        R"(<td class="bar-cell"><span class="meter" style="--w:{:.1f}%"></span>{:.3f}</td>)",
        100 * value, value);
  };
  for (std::size_t c = 0; c < metrics.size(); ++c) {
    rows += fmt::format(
        R"(<tr><th scope="row"><i class="swatch" style="background:{}"></i>{}</th><td>{}</td>{}{}{}</tr>)",
        hex(colours[c]), escape(metrics[c].label), grouped(metrics[c].support),
        bar(metrics[c].precision), bar(metrics[c].recall), bar(metrics[c].f1));
  }
  section.html =
      "<p class=\"intro\">Precision: of the tiles called a class, the share that is. Recall: of "
      "the tiles of a class, the "
      "share found. F1: their harmonic mean.</p>"
      "<div class=\"scroll\" tabindex=\"0\" role=\"group\" aria-label=\"Metrics by class\"><table "
      "class=\"metrics\"><thead><tr><th scope=\"col\">class</th><th scope=\"col\">tiles</th><th "
      "scope=\"col\">precision</th>"
      "<th scope=\"col\">recall</th><th scope=\"col\">F1</th></tr></thead><tbody>" +
      rows + "</tbody></table></div>";
  return section;
}

Section calibration(const RunRecord& run) {
  Section section{"calibration", "Calibration", "Can its confidence be trusted?", ""};
  const Calibration result = calibrate(run.validation, run.classes.size());
  std::string rows;
  for (const CalibrationBin& bin : result.bins) {
    if (bin.tiles == 0) continue;
    rows += fmt::format(
        "<tr><th scope=\"row\">{:.0f}\u2013{:.0f} %</th><td>{}</td><td>{}</td><td>{}</td></tr>",
        100 * bin.low, 100 * bin.high, grouped(bin.tiles), percent(bin.confidence),
        percent(bin.accuracy));
  }
  section.html = fmt::format(
      "<p class=\"intro\">Of the tiles the model is 80 % sure of, 80 % should be right: bars on "
      "the line. They are off it "
      "by <strong>{:.1f} points</strong> on average (expected calibration error). Darker bars hold "
      "more tiles.</p>"
      "<div class=\"pair\">{}<table class=\"numbers\"><thead><tr><th "
      "scope=\"col\">confidence</th><th scope=\"col\">tiles</th>"
      "<th scope=\"col\">sure</th><th "
      "scope=\"col\">right</th></tr></thead><tbody>{}</tbody></table></div>",
      100 * result.expected_error, calibration_chart(result), rows);
  return section;
}

Section mistakes(const RunRecord& run, const Path& tiles, std::vector<std::string>& notes) {
  Section section{"mistakes", "Mistakes", "Most confident mistakes", ""};
  const std::vector<std::size_t> wrong =
      confident_mistakes(run.validation, run.classes.size(), kMistakes);
  if (wrong.empty()) {
    section.html = "<p class=\"intro\">There is none: every validation tile is right.</p>";
    return section;
  }
  TilePictures pictures(tiles);
  std::size_t missing = 0;
  std::string items;
  for (const std::size_t i : wrong) {
    const std::string& name = run.validation.tiles[i];
    const std::string uri = pictures.uri(name);
    missing += uri.empty() ? 1 : 0;
    const std::string picture =
        uri.empty()
            ? "<span class=\"no-picture\">no picture</span>"
            : fmt::format(R"(<img src="{0}" width="{1}" height="{1}" alt="" loading="lazy">)", uri,
                          TilePictures::kSide);
    items += fmt::format(
        R"(<li>{}<p><b>{}</b>, not {}<br><span class="soft">{} sure</span></p><p class="file" title="{}">{}</p></li>)",
        picture, escape(run.classes[run.validation.predicted[i]]),
        escape(run.classes[run.validation.labels[i]]),
        percent(confidence(run.validation, run.classes.size(), i), 0), escape(name),
        escape(Path(name).filename().string()));
  }
  if (missing > 0) {
    notes.push_back(
        fmt::format("{} of {} pictures of mistakes were not found in '{}'; --validation says where "
                    "the validation tiles are",
                    missing, wrong.size(), tiles.native()));
  }
  section.html = fmt::format(
      "<p class=\"intro\">Where the model was surest and wrong: lookalikes, and tiles whose label "
      "may be. What the model "
      "said comes first.</p><ul class=\"mistakes\">{}</ul>",
      items);
  return section;
}

}  // namespace

std::vector<Figure> run_figures(const RunRecord& run) {
  std::vector<Figure> figures;
  const std::int64_t tiles =
      std::accumulate(run.confusion.begin(), run.confusion.end(), std::int64_t{0});
  if (tiles > 0) {
    figures.push_back({percent(error_of(run.confusion, run.classes.size())),
                       fmt::format("validation error, of {} tiles", grouped(tiles))});
    if (const std::optional<Merged> merged = merge_as_sample(run.confusion, run.classes)) {
      figures.push_back({percent(error_of(merged->confusion, 3)), "error with three classes"});
    }
  } else if (const EpochRow* best = best_epoch(run, Metric::kValidationError); best != nullptr) {
    figures.push_back({percent(best->validation_error), "lowest validation error"});
  }
  if (run.epochs.size() == 1)
    figures.push_back({percent(run.epochs[0].train_error), "training error"});
  if (run.epochs.size() > 1) {
    figures.push_back(
        {fmt::format("{}", run.epochs.size()),
         run.kept_epoch > 0 ? fmt::format("epochs, number {} kept", run.kept_epoch) : "epochs"});
  }
  if (!run.epochs.empty())
    figures.push_back({format_duration(total_seconds(run)), "training time"});
  return figures;
}

std::vector<Section> run_sections(const RunRecord& run, const Path& tiles,
                                  std::vector<std::string>& notes) {
  std::vector<Section> sections;
  // A classifier on kept features has one row; a curve through one point says nothing.
  if (run.epochs.size() > 1) sections.push_back(curves(run));
  const bool has_tiles = std::any_of(run.confusion.begin(), run.confusion.end(),
                                     [](std::int64_t count) { return count > 0; });
  if (has_tiles) {
    sections.push_back(confusion(run));
    sections.push_back(per_class(run));
  }
  if (!run.validation.labels.empty()) {
    sections.push_back(calibration(run));
    sections.push_back(mistakes(run, tiles, notes));
  }
  if (!has_tiles) notes.emplace_back("the run has no epoch with predictions yet");
  return sections;
}

std::string settings_section(const std::string& title, const Settings& config,
                             const Settings& environment) {
  const auto list = [](const Settings& settings) {
    std::string html;
    for (const Setting& s : settings) {
      html += fmt::format("<div><dt>{}</dt><dd>{}</dd></div>", escape(s.name),
                          s.value.empty() ? "\u2013" : escape(s.value));
    }
    return html;
  };
  return fmt::format(
      "<details><summary>{}</summary><dl class=\"settings\">{}{}</dl></details>", escape(title),
      list(config),
      environment.empty()
          ? ""
          : "<div class=\"break\"><dt>environment</dt><dd></dd></div>" + list(environment));
}

}  // namespace quadrat::report
