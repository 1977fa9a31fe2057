#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "quadrat/base/error.h"
#include "quadrat/base/files.h"
#include "quadrat/base/settings.h"

namespace quadrat::cli {

/// A program's options: what they are called, what they mean, where they go.
///
/// Names are written with underscores and accepted with hyphens too. Every program has --help,
/// --version and -c/--config_filename, an INI file of `name = value` lines that the command line
/// overrules. Nothing is abbreviated or guessed: an unknown name is an error that proposes the
/// nearest one.
class Parser {
 public:
  /// @param summary one sentence: what the program does
  /// @param examples shown at the end of --help, each line a command
  Parser(std::string program, std::string summary, std::string examples);
  ~Parser();
  Parser(const Parser&) = delete;
  Parser& operator=(const Parser&) = delete;

  /// Options added from here on are listed in --help under this heading.
  void group(std::string title);

  /// One option. The value that `target` has now is the default and shown in --help, unless it is
  /// empty.
  /// @param names "num_epochs" or "num_epochs,n" for a one-letter form
  /// @param value_name what stands for the value in --help: "DIR", "N"
  /// @throws (when parsing) UsageError where the text is no such value
  void add(const std::string& names, std::string& target, const std::string& value_name,
           const std::string& help);
  void add(const std::string& names, Path& target, const std::string& value_name,
           const std::string& help);
  void add(const std::string& names, std::int64_t& target, const std::string& value_name,
           const std::string& help);
  void add(const std::string& names, double& target, const std::string& value_name,
           const std::string& help);
  /// Given one or more values: --image a.tif b.tif
  void add(const std::string& names, std::vector<std::string>& target,
           const std::string& value_name, const std::string& help);
  /// A switch without a value.
  void add(const std::string& names, bool& target, const std::string& help);
  /// One of the values listed, which --help shows as {a,b,c}.
  void add_choice(const std::string& names, std::string& target, std::vector<std::string> choices,
                  const std::string& help);
  /// Words without a leading dash, in order: quadrat-runs show NAME.
  void add_words(std::vector<std::string>& target, const std::string& usage,
                 const std::string& help);

  /// Options named here must be given, on the command line or in the file.
  void require(std::vector<std::string> names);

  /// Fills the targets. @return true where the program should go on, false where --help or
  /// --version has answered.
  /// @throws UsageError
  bool parse(int argc, const char* const* argv);

  /// Every option as it is used, in the order added. Valid after parse.
  Settings as_used() const;

  /// Whether the option was given, rather than left at its default. Valid after parse.
  bool is_given(const std::string& name) const;

  const std::string& program() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

/// For a program whose first word says what it does. @param known what it may be
UsageError unknown_command(const std::string& word, const std::vector<std::string>& known);

/// What a program's main does: parses, runs `body`, prints what it throws as one line, and returns
/// the exit status (see base/error.h). Usage errors and --help never start MPI. An error that only
/// some ranks have ends all of them.
/// @param body returns the exit status; it may start MPI
int run(Parser& parser, int argc, const char* const* argv, const std::function<int()>& body);

}  // namespace quadrat::cli
