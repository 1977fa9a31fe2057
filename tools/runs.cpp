// quadrat-runs: what has been trained, how well, and with which settings.
#include <fmt/format.h>

#include <algorithm>
#include <functional>
#include <map>

#include "quadrat/base/error.h"
#include "quadrat/base/text.h"
#include "quadrat/cli/parser.h"
#include "quadrat/report/run_list.h"
#include "quadrat/report/run_text.h"

namespace {

using namespace quadrat;
using namespace quadrat::report;

struct Options {
  std::vector<std::string> words;
  Path runs = "runs";
  std::string metric = "validation_error";
  std::string sort = "metric";
  std::string table = "epochs";
  bool csv = false;
  bool any_status = false;
};

std::string only_name(const Options& options) {
  if (options.words.size() == 2) return options.words[1];
  throw UsageError(fmt::format("'{}' wants the name of one run, {} were given", options.words[0],
                               options.words.size() - 1));
}

void no_names(const Options& options) {
  if (options.words.size() > 1) {
    throw UsageError(fmt::format("'{}' takes no names, '{}' was given", options.words[0],
                                 printable(options.words[1])));
  }
}

void list(const Options& options) {
  no_names(options);
  const Metric metric = metric_from("--metric", options.metric);
  std::vector<RunEntry> entries = list_runs(options.runs);
  if (options.sort == "metric") sort_by_metric(entries, metric);
  if (options.sort == "created") {
    std::stable_sort(entries.begin(), entries.end(), [](const RunEntry& a, const RunEntry& b) {
      return a.record.created > b.record.created;
    });
  }
  fmt::print("{}", options.csv ? list_csv(entries, metric)
                               : list_text(entries, metric, style_of_stdout()));
}

void show(const Options& options) {
  fmt::print("{}", show_text(load_run(options.runs, only_name(options), false), style_of_stdout()));
}

/// The runs that are named, or all of them.
std::vector<RunEntry> named_runs(const Options& options) {
  if (options.words.size() == 1) return list_runs(options.runs);
  std::vector<RunEntry> entries;
  for (std::size_t i = 1; i < options.words.size(); ++i) {
    entries.push_back({options.words[i], load_run(options.runs, options.words[i], false), ""});
  }
  return entries;
}

void compare(const Options& options) {
  const Metric metric = metric_from("--metric", options.metric);
  std::vector<RunEntry> entries = named_runs(options);
  if (options.csv) {
    sort_by_metric(entries, metric);
    fmt::print("{}", list_csv(entries, metric));
  } else {
    fmt::print("{}", compare_text(entries, metric, style_of_stdout()));
  }
}

void best(const Options& options) {
  const Metric metric = metric_from("--metric", options.metric);
  std::vector<RunEntry> entries = named_runs(options);
  sort_by_metric(entries, metric);
  for (const RunEntry& entry : entries) {
    if (best_epoch(entry.record, metric) == nullptr) continue;
    if (!options.any_status && entry.record.status != RunStatus::kComplete) continue;
    fmt::print("{}\n", entry.name);
    return;
  }
  throw InputError("name the best run in", options.runs.native(),
                   fmt::format("none of {} {} a value of {}", entries.size(),
                               options.any_status ? "has" : "is complete and has", options.metric),
                   "'quadrat-runs list' shows what there is");
}

void export_run(const Options& options) {
  fmt::print("{}",
             export_csv(load_run(options.runs, only_name(options), options.table == "predictions"),
                        options.table));
}

int run(const Options& options) {
  const std::map<std::string, std::function<void(const Options&)>> commands{
      {"list", list}, {"show", show}, {"compare", compare}, {"best", best}, {"export", export_run}};
  if (options.words.empty()) {
    throw UsageError(
        "say what to do: list, show NAME, compare NAME..., best or export NAME (see --help)");
  }
  const auto command = commands.find(options.words[0]);
  if (command == commands.end()) {
    throw cli::unknown_command(options.words[0], {"list", "show", "compare", "best", "export"});
  }
  command->second(options);
  return kExitDone;
}

}  // namespace

int main(int argc, char** argv) {
  Options options;
  cli::Parser parser("quadrat-runs",
                     "lists, shows and compares training runs, also while they go on.",
                     "  quadrat-runs list\n"
                     "  quadrat-runs compare resnet_all alexnet_all\n"
                     "  quadrat-score --tiles county --output_model_name $(quadrat-runs best)\n"
                     "  quadrat-runs export resnet_all --csv > epochs.csv");
  parser.add_words(
      options.words, "list | show NAME | compare [NAME...] | best [NAME...] | export NAME",
      "  list       one line a run, best first\n"
      "  show       all of one run: settings, epochs, confusion matrix, metrics by class\n"
      "  compare    results, the settings that differ, curves; runs that differ only in the seed "
      "as one\n"
      "             (mean and standard deviation). All runs where none is named\n"
      "  best       the name of the best complete run (of those named), and nothing else\n"
      "  export     a table of the run as CSV");
  parser.add("runs", options.runs, "DIR", "where the runs are");
  parser.add_choice("metric,m", options.metric, metric_names(),
                    "what runs are compared by: the best epoch's");
  parser.add_choice("sort", options.sort, {"metric", "name", "created"},
                    "order of 'list': best, by name, newest first");
  parser.add_choice("table", options.table, export_tables(), "what 'export' writes");
  parser.add("csv", options.csv,
             "as CSV, with fractions and seconds in full: list, compare, export");
  parser.add("any_status", options.any_status, "'best' also among runs that are not complete");
  return cli::run(parser, argc, argv, [&] { return run(options); });
}
