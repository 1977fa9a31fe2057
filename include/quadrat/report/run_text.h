#pragma once

#include <string>
#include <vector>

#include "quadrat/record/run_record.h"
#include "quadrat/report/run_list.h"

namespace quadrat::report {

struct TextStyle {
  std::size_t width = 100;  ///< columns of the terminal
  bool colour = false;      ///< whether escapes for bold and dim may be used
};

/// The terminal's width and whether stdout is one; 100 columns and no colour in files and pipes.
TextStyle style_of_stdout();

/// One line a run: what `quadrat-runs list` prints.
std::string list_text(const std::vector<RunEntry>& entries, Metric metric, const TextStyle& style);
std::string list_csv(const std::vector<RunEntry>& entries, Metric metric);

/// All of one run: status, settings, epochs, confusion matrix, metrics by class.
std::string show_text(const RunRecord& run, const TextStyle& style);

/// Results by group of seeds, settings side by side with those that differ marked, curves laid over
/// each other.
std::string compare_text(const std::vector<RunEntry>& entries, Metric metric,
                         const TextStyle& style);

/// What export writes. @throws UsageError for an unknown table
const std::vector<std::string>&
export_tables();  ///< epochs, per_class, confusion, predictions, config
std::string export_csv(const RunRecord& run, const std::string& table);

/// Curves as text, one letter each, over a common x from 1.
struct TextCurve {
  std::string name;
  std::vector<double> values;  ///< NaN where there is none
};
std::string plot_text(const std::vector<TextCurve>& curves, const std::string& title, bool percent,
                      const TextStyle& style);

}  // namespace quadrat::report
