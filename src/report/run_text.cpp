#include "quadrat/report/run_text.h"

#include <fmt/format.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <limits>
#include <set>

#include "quadrat/base/error.h"
#include "quadrat/base/progress.h"
#include "quadrat/base/text.h"
#include "quadrat/report/text_table.h"

namespace quadrat::report {

namespace {

constexpr std::size_t kMaxCurves = 26;

std::string heading(const std::string& text, const TextStyle& style) {
  return style.colour ? fmt::format("\n\x1b[1m{}\x1b[0m\n", text) : fmt::format("\n{}\n", text);
}

std::string metric_text(double value, Metric metric) {
  if (std::isnan(value)) return "nan";
  return is_error(metric) ? fmt::format("{:.2f} %", 100 * value) : fmt::format("{:.4f}", value);
}

std::string metric_title(Metric metric) {
  std::string title(to_string(metric));
  std::replace(title.begin(), title.end(), '_', ' ');
  return title;
}

std::string best_text(const RunRecord& run, Metric metric) {
  const EpochRow* best = best_epoch(run, metric);
  return best == nullptr ? "-" : metric_text(value_of(*best, metric), metric);
}

/// What a finished run has and an unfinished one wants: "7/10".
std::string epochs_text(const RunRecord& run) {
  const std::string wanted = setting(run.config, "num_epochs");
  const std::string done = fmt::format("{}", run.epochs.size());
  return wanted.empty() || wanted == done ? done : done + "/" + wanted;
}

/// "2026-11-21 09:30": to the minute, without the T and Z.
std::string minute_text(const std::string& iso) {
  if (iso.size() < 16) return printable(iso, 16);
  return printable(iso.substr(0, 10)) + " " + printable(iso.substr(11, 5));
}

std::string csv_row(const std::vector<std::string>& fields) {
  std::vector<std::string> quoted;
  for (const std::string& field : fields) quoted.push_back(csv_field(field));
  return fmt::format("{}\n", fmt::join(quoted, ","));
}

std::vector<TextCurve> curves_of(const std::vector<const RunEntry*>& entries, Metric metric) {
  std::vector<TextCurve> curves;
  for (const RunEntry* entry : entries) {
    TextCurve curve{entry->name, {}};
    for (const EpochRow& epoch : entry->record.epochs)
      curve.values.push_back(value_of(epoch, metric));
    curves.push_back(std::move(curve));
  }
  return curves;
}

/// The mean over a group's runs, epoch by epoch.
TextCurve mean_curve(const RunGroup& group, Metric metric) {
  TextCurve mean{group.name, {}};
  std::vector<std::size_t> counts;
  for (const TextCurve& curve : curves_of(group.entries, metric)) {
    mean.values.resize(std::max(mean.values.size(), curve.values.size()));
    counts.resize(mean.values.size());
    for (std::size_t i = 0; i < curve.values.size(); ++i) {
      if (std::isnan(curve.values[i])) continue;
      mean.values[i] += curve.values[i];
      ++counts[i];
    }
  }
  for (std::size_t i = 0; i < counts.size(); ++i) {
    mean.values[i] =
        counts[i] == 0 ? std::nan("") : mean.values[i] / static_cast<double>(counts[i]);
  }
  return mean;
}

/// The settings in which runs differ, runs side by side, and how many they share.
std::string settings_text(const std::vector<RunGroup>& groups, const TextStyle& style) {
  std::vector<const RunGroup*> readable;
  std::vector<const Settings*> runs;
  for (const RunGroup& group : groups) {
    if (!group.entries[0]->problem.empty()) continue;
    readable.push_back(&group);
    for (const RunEntry* entry : group.entries) runs.push_back(&entry->record.config);
  }
  std::vector<std::string> differing;
  std::set<std::string> seen{"output_model_name"};  // differs always, and heads the columns
  for (const Settings* run : runs) {
    for (const Setting& s : *run) {
      if (!seen.insert(s.name).second) continue;
      const auto is_other = [&](const Settings* other) {
        return setting(*other, s.name) != s.value;
      };
      if (std::any_of(runs.begin(), runs.end(), is_other)) differing.push_back(s.name);
    }
  }
  // A group's values of one setting: several where its runs differ in it (the seed).
  const auto value = [](const RunGroup& group, const std::string& name) {
    std::vector<std::string> values;
    for (const RunEntry* entry : group.entries) {
      std::string text = printable(setting(entry->record.config, name), 200);
      if (std::find(values.begin(), values.end(), text) == values.end())
        values.push_back(std::move(text));
    }
    return fmt::format("{}", fmt::join(values, " "));
  };
  constexpr std::size_t kMaxCell = 24;
  std::size_t name_width = 0;
  for (const std::string& name : differing) name_width = std::max(name_width, display_width(name));
  std::string text;
  for (std::size_t first = 0; first < readable.size() && !differing.empty();) {
    // As many runs side by side as the terminal has room for.
    std::size_t last = first;
    std::size_t width = name_width;
    while (last < readable.size()) {
      std::size_t cell = display_width(shortened(readable[last]->name, kMaxCell));
      for (const std::string& name : differing) {
        cell = std::max(cell, display_width(shortened(value(*readable[last], name), kMaxCell)));
      }
      width += cell + 2;
      if (width > style.width && last > first) break;
      ++last;
    }
    std::vector<std::string> header{""};
    for (std::size_t i = first; i < last; ++i)
      header.push_back(shortened(readable[i]->name, kMaxCell));
    TextTable table(header);
    for (const std::string& name : differing) {
      std::vector<std::string> row{printable(name, 60)};
      for (std::size_t i = first; i < last; ++i)
        row.push_back(shortened(value(*readable[i], name), kMaxCell));
      table.add(std::move(row));
    }
    for (std::size_t i = 0; i < header.size(); ++i) table.align_left(i);
    text += table.text(style.colour) + (last < readable.size() ? "\n" : "");
    first = last;
  }
  const std::size_t alike = seen.size() - 1 - differing.size();
  return text + fmt::format("{} setting{} the same in all (quadrat-runs show NAME)\n", alike,
                            alike == 1 ? " is" : "s are");
}

std::string confusion_text(const RunRecord& run, const TextStyle& style) {
  const std::size_t classes = run.classes.size();
  std::vector<std::string> header{"true \\ predicted"};
  for (const std::string& label : run.classes) header.push_back(printable(label, 24));
  TextTable table(header);
  for (std::size_t row = 0; row < classes; ++row) {
    std::vector<std::string> cells{printable(run.classes[row], 24)};
    for (std::size_t column = 0; column < classes; ++column) {
      cells.push_back(fmt::format("{}", run.confusion[row * classes + column]));
    }
    table.add(std::move(cells));
  }
  return table.text(style.colour);
}

std::string per_class_text(const RunRecord& run, const TextStyle& style) {
  TextTable table({"class", "support", "precision", "recall", "F1"});
  for (const ClassMetrics& row : class_metrics(run.confusion, run.classes)) {
    table.add({printable(row.label, 24), fmt::format("{}", row.support),
               fmt::format("{:.3f}", row.precision), fmt::format("{:.3f}", row.recall),
               fmt::format("{:.3f}", row.f1)});
  }
  return table.text(style.colour);
}

std::string epochs_table(const RunRecord& run, const TextStyle& style) {
  TextTable table({"epoch", "train loss", "train error", "val. loss", "val. error", "learning rate",
                   "time", "tiles/s", ""});
  const EpochRow* best = best_epoch(run, Metric::kValidationError);
  // Long runs are thinned out: every n-th epoch, the best and the last.
  constexpr std::size_t kMaxRows = 30;
  const std::size_t step = (run.epochs.size() + kMaxRows - 1) / kMaxRows;
  for (std::size_t i = 0; i < run.epochs.size(); ++i) {
    const EpochRow& row = run.epochs[i];
    const bool kept = row.epoch == run.kept_epoch;
    if (i % step != 0 && &row != best && !kept && i + 1 != run.epochs.size()) continue;
    std::string note;
    if (&row == best) note = "best";
    if (kept) note += note.empty() ? "kept" : ", kept";
    table.add({fmt::format("{}", row.epoch), fmt::format("{:.4f}", row.train_loss),
               metric_text(row.train_error, Metric::kTrainError),
               fmt::format("{:.4f}", row.validation_loss),
               metric_text(row.validation_error, Metric::kValidationError),
               fmt::format("{:.3g}", row.learning_rate), format_duration(row.seconds),
               fmt::format("{:.1f}", row.tiles_per_s), note});
  }
  table.align_right(6);
  table.align_left(8);
  return table.text(style.colour);
}

}  // namespace

TextStyle style_of_stdout() {
  TextStyle style;
  if (::isatty(STDOUT_FILENO) == 0) return style;
  winsize size{};
  if (::ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col >= 40)
    style.width = size.ws_col;
  const char* terminal = std::getenv("TERM");
  style.colour = std::getenv("NO_COLOR") == nullptr && terminal != nullptr &&
                 std::string_view(terminal) != "dumb";
  return style;
}

std::string list_text(const std::vector<RunEntry>& entries, Metric metric, const TextStyle& style) {
  TextTable table({"name", "status", "model", "best " + metric_title(metric), "at", "epochs",
                   "seed", "time", "created (UTC)"});
  std::string problems;
  for (const RunEntry& entry : entries) {
    if (!entry.problem.empty()) {
      problems += fmt::format("{}: unreadable: {}\n", printable(entry.name), entry.problem);
      continue;
    }
    const RunRecord& run = entry.record;
    const EpochRow* best = best_epoch(run, metric);
    table.add({printable(entry.name), std::string(quadrat::to_string(run.status)),
               printable(model_of(run), 40), best_text(run, metric),
               best == nullptr ? "-" : fmt::format("{}", best->epoch), epochs_text(run),
               printable(setting(run.config, "seed"), 20), format_duration(total_seconds(run)),
               minute_text(run.created)});
  }
  for (const std::size_t column : {3, 4, 5, 6, 7}) table.align_right(column);
  table.align_left(0);
  if (entries.empty()) return "no runs\n";
  return table.text(style.colour) + (problems.empty() ? "" : "\n" + problems);
}

std::string list_csv(const std::vector<RunEntry>& entries, Metric metric) {
  const std::string name(to_string(metric));
  std::string text = csv_row({"name", "status", "model", "best_" + name, "best_epoch", "kept_epoch",
                              "epochs", "seed", "seconds", "created", "updated", "problem"});
  for (const RunEntry& entry : entries) {
    const RunRecord& run = entry.record;
    if (!entry.problem.empty()) {
      text +=
          csv_row({entry.name, "unreadable", "", "", "", "", "", "", "", "", "", entry.problem});
      continue;
    }
    const EpochRow* best = best_epoch(run, metric);
    text += csv_row({entry.name, std::string(quadrat::to_string(run.status)), model_of(run),
                     best == nullptr ? "" : fmt::format("{}", value_of(*best, metric)),
                     best == nullptr ? "" : fmt::format("{}", best->epoch),
                     fmt::format("{}", run.kept_epoch), fmt::format("{}", run.epochs.size()),
                     setting(run.config, "seed"), fmt::format("{:.3f}", total_seconds(run)),
                     run.created, run.updated, ""});
  }
  return text;
}

std::string show_text(const RunRecord& run, const TextStyle& style) {
  TextTable facts({"", ""});
  facts.add({"run", printable(run.name)});
  facts.add({"status", std::string(quadrat::to_string(run.status))});
  facts.add({"model", printable(model_of(run))});
  facts.add({"epochs", epochs_text(run)});
  if (const EpochRow* best = best_epoch(run, Metric::kValidationError); best != nullptr) {
    facts.add(
        {"best validation error",
         fmt::format("{} at epoch {}", best_text(run, Metric::kValidationError), best->epoch)});
    facts.add({"time", fmt::format("{} in {} epochs", format_duration(total_seconds(run)),
                                   run.epochs.size())});
  }
  facts.add({"created", printable(run.created)});
  facts.add({"updated", printable(run.updated)});
  facts.add({"program", printable(run.program) + ", commit " + printable(run.git_commit)});
  facts.align_left(0);
  facts.align_left(1);
  std::string text = facts.text();

  const auto list = [&](const std::string& title, const Settings& settings) {
    TextTable table({"", ""});
    for (const Setting& s : settings) table.add({printable(s.name), printable(s.value, 200)});
    table.align_left(1);
    text += heading(title, style) + table.text(false, 2);
  };
  list("Settings", run.config);
  list("Environment", run.environment);
  if (!run.epochs.empty()) {
    text += heading("Epochs", style) + epochs_table(run, style);
    TextCurve train{"train error", {}};
    TextCurve validation{"validation error", {}};
    for (const EpochRow& row : run.epochs) {
      train.values.push_back(row.train_error);
      validation.values.push_back(row.validation_error);
    }
    if (run.epochs.size() > 1)
      text += "\n" + plot_text({train, validation}, "error by epoch", true, style);
  }
  std::int64_t tiles = 0;
  for (const std::int64_t count : run.confusion) tiles += count;
  if (tiles > 0) {
    text += heading(fmt::format("Validation tiles of epoch {}", run.kept_epoch), style) +
            confusion_text(run, style);
    text += "\n" + per_class_text(run, style);
    text += fmt::format("\n{} tiles, error {:.2f} %\n", tiles,
                        100 * error_of(run.confusion, run.classes.size()));
  }
  return text;
}

std::string compare_text(const std::vector<RunEntry>& entries, Metric metric,
                         const TextStyle& style) {
  std::vector<RunGroup> groups = group_by_settings(entries, metric);
  std::stable_sort(groups.begin(), groups.end(), [](const RunGroup& a, const RunGroup& b) {
    const double infinity = std::numeric_limits<double>::infinity();
    return (a.measured > 0 ? a.mean : infinity) < (b.measured > 0 ? b.mean : infinity);
  });
  TextTable results(
      {"", "run", "status", "best " + metric_title(metric), "at", "epochs", "time", "tiles/s"});
  std::vector<TextCurve> curves;
  std::string problems;
  std::size_t with_letter = 0;
  const bool grouped = groups.size() < entries.size();
  for (const RunGroup& group : groups) {
    if (!group.entries[0]->problem.empty()) {
      problems +=
          fmt::format("{}: unreadable: {}\n", printable(group.name), group.entries[0]->problem);
      continue;
    }
    const TextCurve curve = mean_curve(group, metric);
    std::string letter;
    if (!curve.values.empty() && with_letter < kMaxCurves) {
      letter = std::string(1, static_cast<char>('a' + with_letter++));
      curves.push_back(curve);
    }
    if (group.entries.size() > 1) {
      std::string value = group.measured == 0 ? "-" : metric_text(group.mean, metric);
      if (group.sd) {
        value = is_error(metric)
                    ? fmt::format("{:.2f} ± {:.2f} %", 100 * group.mean, 100 * *group.sd)
                    : fmt::format("{:.4f} ± {:.4f}", group.mean, *group.sd);
      }
      results.add({letter, printable(group.name), fmt::format("{} runs", group.entries.size()),
                   value, "", "", "", ""});
      letter.clear();
    }
    for (const RunEntry* entry : group.entries) {
      const RunRecord& run = entry->record;
      const EpochRow* best = best_epoch(run, metric);
      results.add(
          {letter,
           fmt::format("{}{}", group.entries.size() > 1 ? "  " : "", printable(entry->name)),
           std::string(quadrat::to_string(run.status)), best_text(run, metric),
           best == nullptr ? "-" : fmt::format("{}", best->epoch), epochs_text(run),
           format_duration(total_seconds(run)),
           run.epochs.empty() ? "-" : fmt::format("{:.1f}", run.epochs.back().tiles_per_s)});
    }
  }
  results.align_left(1);
  for (const std::size_t column : {3, 4, 5, 6, 7}) results.align_right(column);
  std::string text = results.text(style.colour);
  if (grouped)
    text += "runs that differ only in the seed are grouped: mean ± sample standard deviation\n";
  text += heading("Settings that differ", style) + settings_text(groups, style);
  if (!curves.empty()) {
    text += "\n" + plot_text(curves, metric_title(metric) + " by epoch", is_error(metric), style);
    if (groups.size() > kMaxCurves) text += fmt::format("only the best {} are drawn\n", kMaxCurves);
  }
  return text + (problems.empty() ? "" : "\n" + problems);
}

const std::vector<std::string>& export_tables() {
  static const std::vector<std::string> names{"epochs", "per_class", "confusion", "predictions",
                                              "config"};
  return names;
}

std::string export_csv(const RunRecord& run, const std::string& table) {
  const auto number = [](auto value) { return fmt::format("{}", value); };
  std::string text;
  if (table == "epochs") {
    text =
        "epoch,train_loss,train_error,validation_loss,validation_error,learning_rate,seconds,tiles_"
        "per_s\n";
    for (const EpochRow& row : run.epochs) {
      text += fmt::format("{},{},{},{},{},{},{},{}\n", row.epoch, row.train_loss, row.train_error,
                          row.validation_loss, row.validation_error, row.learning_rate, row.seconds,
                          row.tiles_per_s);
    }
  } else if (table == "per_class") {
    text = "label,support,precision,recall,f1\n";
    for (const ClassMetrics& row : class_metrics(run.confusion, run.classes)) {
      text += csv_row({row.label, number(row.support), number(row.precision), number(row.recall),
                       number(row.f1)});
    }
  } else if (table == "confusion") {
    std::vector<std::string> header{"true"};
    header.insert(header.end(), run.classes.begin(), run.classes.end());
    text = csv_row(header);
    for (std::size_t row = 0; row < run.classes.size(); ++row) {
      std::vector<std::string> cells{run.classes[row]};
      for (std::size_t column = 0; column < run.classes.size(); ++column) {
        cells.push_back(number(run.confusion[row * run.classes.size() + column]));
      }
      text += csv_row(cells);
    }
  } else if (table == "predictions") {
    std::vector<std::string> header{"tile", "label", "predicted"};
    for (const std::string& label : run.classes) header.push_back("p_" + label);
    text = csv_row(header);
    const Predictions& all = run.validation;
    for (std::size_t i = 0; i < all.tiles.size(); ++i) {
      text += csv_field(all.tiles[i]) + ',' +
              (all.labels.empty() ? "" : csv_field(run.classes[all.labels[i]])) + ',' +
              csv_field(run.classes[all.predicted[i]]);
      for (std::size_t c = 0; c < run.classes.size(); ++c) {
        text += fmt::format(",{}", all.probabilities[i * run.classes.size() + c]);
      }
      text += '\n';
    }
  } else if (table == "config") {
    text = "name,value\n";
    for (const Setting& s : run.config) text += csv_row({s.name, s.value});
  } else {
    throw UsageError(fmt::format("--table is '{}', but must be one of {}", printable(table),
                                 enumerate(export_tables())));
  }
  return text;
}

std::string plot_text(const std::vector<TextCurve>& curves, const std::string& title, bool percent,
                      const TextStyle& style) {
  constexpr std::size_t kHeight = 13;
  constexpr std::size_t kAxis = 8;
  double low = std::numeric_limits<double>::infinity();
  double high = -low;
  std::size_t longest = 0;
  for (const TextCurve& curve : curves) {
    longest = std::max(longest, curve.values.size());
    for (const double value : curve.values) {
      if (!std::isfinite(value)) continue;
      low = std::min(low, value);
      high = std::max(high, value);
    }
  }
  if (longest == 0 || !(low <= high)) return "";
  if (percent) low = std::min(low, 0.0);
  if (high == low) high = low + 1;
  const std::size_t width = std::clamp<std::size_t>(style.width - kAxis - 2, 20, 72);
  std::vector<std::string> canvas(kHeight, std::string(width, ' '));
  const auto row_of = [&](double value) {
    return static_cast<std::size_t>(std::lround((high - value) / (high - low) * (kHeight - 1)));
  };
  for (std::size_t c = 0; c < curves.size(); ++c) {
    const std::vector<double>& values = curves[c].values;
    for (std::size_t x = 0; x < width; ++x) {
      // Between epochs the line goes straight.
      const double at = longest == 1 ? 0.0
                                     : static_cast<double>(x) * static_cast<double>(longest - 1) /
                                           static_cast<double>(width - 1);
      const auto left = static_cast<std::size_t>(at);
      if (left >= values.size()) break;
      const std::size_t right = std::min(left + 1, values.size() - 1);
      if (left == right && at > static_cast<double>(left) && left + 1 < longest) break;
      const double share = at - static_cast<double>(left);
      const double value = values[left] * (1 - share) + values[right] * share;
      if (!std::isfinite(value)) continue;
      canvas[row_of(value)][x] = static_cast<char>('a' + c);
      if (longest == 1) break;
    }
  }
  std::string text = title + "\n";
  for (std::size_t row = 0; row < kHeight; ++row) {
    const double value = high - (high - low) * static_cast<double>(row) / (kHeight - 1);
    const std::string tick = row % 3 == 0 ? (percent ? fmt::format("{:.1f}%", 100 * value)
                                                     : fmt::format("{:.3f}", value))
                                          : "";
    std::string line = fmt::format("{:>{}} |{}", tick, kAxis - 2, canvas[row]);
    line.erase(line.find_last_not_of(' ') + 1);
    text += line + "\n";
  }
  text += fmt::format("{:>{}} +{}\n", "", kAxis - 2, std::string(width, '-'));
  const std::string last = fmt::format("{}", longest);
  text += fmt::format("{:>{}}1{:>{}}\n", "", kAxis, last, width - 1);
  const std::string indent(kAxis, ' ');
  std::string line = indent;
  for (std::size_t c = 0; c < curves.size(); ++c) {
    const std::string item =
        fmt::format("{} {}", static_cast<char>('a' + c), printable(curves[c].name, 40));
    if (line.size() > kAxis && line.size() + 3 + item.size() > style.width) {
      text += line + "\n";
      line = indent;
    }
    line += fmt::format("{}{}", line.size() > kAxis ? "   " : "", item);
  }
  return text + line + "\n";
}

}  // namespace quadrat::report
