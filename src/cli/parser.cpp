#include "quadrat/cli/parser.h"

#include <fmt/format.h>

#include <algorithm>
#include <boost/program_options.hpp>
#include <cmath>
#include <concepts>
#include <map>
#include <set>
#include <sstream>

#include "quadrat/base/error.h"
#include "quadrat/base/text.h"
#include "quadrat/base/version.h"
#include "quadrat/mpi/environment.h"

namespace quadrat::cli {

namespace po = boost::program_options;

namespace {

constexpr unsigned kHelpWidth = 100;
constexpr const char* kWords = "words";

struct Option {
  std::string name;
  std::function<std::string()> as_text;
  Setting::Type type = Setting::Type::kText;
  std::function<void(bool)> turn = nullptr;  ///< of a switch
  bool takes_several = false;
};

std::string long_name(const std::string& names) { return names.substr(0, names.find(',')); }

std::string number_text(double value) { return fmt::format("{}", value); }

/// "--num-epochs=3" and "--num-epochs" become "--num_epochs...": both spellings are one name.
std::vector<std::string> with_underscores(int argc, const char* const* argv) {
  std::vector<std::string> arguments;
  for (int i = 1; i < argc; ++i) {
    std::string argument = argv[i];
    if (argument == "--") {
      arguments.insert(arguments.end(), argv + i, argv + argc);
      break;
    }
    if (argument.starts_with("--")) {
      const auto end = argument.find('=');
      std::replace(argument.begin() + 2,
                   end == std::string::npos ? argument.end()
                                            : argument.begin() + static_cast<std::ptrdiff_t>(end),
                   '-', '_');
    }
    arguments.push_back(std::move(argument));
  }
  return arguments;
}

/// What a line of a file gives: one value, or of an option that takes several as many as there are
/// between blanks. Quotes may be around each. A # at the front or after a blank begins a comment.
std::vector<std::string> values_in(std::string_view text, bool takes_several) {
  std::vector<std::string> values;
  while (!text.empty() && text.front() != '#') {
    const char quote = text.front();
    const auto closing =
        quote == '"' || quote == '\'' ? text.find(quote, 1) : std::string_view::npos;
    if (closing != std::string_view::npos) {
      values.emplace_back(text.substr(1, closing - 1));
      text = trimmed(text.substr(closing + 1));
      continue;
    }
    const auto end =
        takes_several ? text.find_first_of(" \t") : std::min(text.find(" #"), text.find("\t#"));
    values.emplace_back(trimmed(text.substr(0, end)));
    text = trimmed(text.substr(std::min(end, text.size())));
  }
  if (values.empty()) values.emplace_back();
  return values;
}

/// "name = value" lines as "--name=value", for each value of a line one. Lines that begin with # or
/// ; are comments. Hyphens may stand for underscores.
std::vector<std::string> options_in(std::string_view text, const std::string& file,
                                    const std::vector<Option>& known) {
  constexpr std::string_view kByteOrderMark = "\xEF\xBB\xBF";
  if (text.starts_with(kByteOrderMark)) text.remove_prefix(kByteOrderMark.size());
  std::vector<std::string> options;
  for (std::size_t number = 1; !text.empty(); ++number) {
    const std::string_view line = trimmed(take_until(text, '\n'));
    if (line.empty() || line.front() == '#' || line.front() == ';') continue;
    const auto equals = line.find('=');
    std::string name(trimmed(line.substr(0, equals)));
    if (equals == std::string_view::npos || name.empty() || line.front() == '[') {
      throw UsageError(fmt::format("configuration file '{}': line {}, '{}', is no `name = value`{}",
                                   file, number, printable(line),
                                   line.front() == '[' ? "; there are no sections" : ""));
    }
    std::replace(name.begin(), name.end(), '-', '_');
    const bool takes_several = std::any_of(known.begin(), known.end(), [&](const Option& option) {
      return option.name == name && option.takes_several;
    });
    for (const std::string& value : values_in(trimmed(line.substr(equals + 1)), takes_several))
      options.push_back(fmt::format("--{}={}", name, value));
  }
  return options;
}

/// What Boost does not know: "--switch=false". @return its switches by name, which are taken out
std::map<std::string, bool> take_switches(std::vector<std::string>& arguments,
                                          const std::vector<Option>& options) {
  std::map<std::string, bool> switches;
  const auto take = [&](const std::string& argument) {
    const auto equals = argument.find('=');
    if (!argument.starts_with("--") || equals == std::string::npos) return false;
    const std::string name = argument.substr(2, equals - 2), value = argument.substr(equals + 1);
    const bool is_switch = std::any_of(options.begin(), options.end(), [&](const Option& option) {
      return option.name == name && option.turn;
    });
    if (!is_switch) return false;
    const bool on = value == "true" || value == "yes" || value == "on" || value == "1";
    if (!on && value != "false" && value != "no" && value != "off" && value != "0") {
      throw UsageError(
          fmt::format("--{} is '{}', but must be true or false", name, printable(value)));
    }
    switches[name] = on;
    return true;
  };
  arguments.erase(std::remove_if(arguments.begin(), arguments.end(), take), arguments.end());
  return switches;
}

}  // namespace

struct Parser::State {
  std::string program;
  std::string summary;
  std::string examples;
  std::string words_usage;
  std::string words_help;
  std::vector<std::pair<std::string, std::unique_ptr<po::options_description>>> groups;
  std::vector<Option> options;
  std::vector<std::string> required;
  std::vector<std::function<void()>> checks;
  std::vector<std::string>* words = nullptr;
  po::variables_map values;
  std::string config_filename;
  std::set<std::string> from_file;  ///< options that the file gave

  po::options_description& current() {
    if (groups.empty()) {
      groups.emplace_back("Options", std::make_unique<po::options_description>(
                                         "Options", kHelpWidth, kHelpWidth / 2));
    }
    return *groups.back().second;
  }

  template <typename T>
  po::typed_value<T>* value(T& target, const std::string& value_name) {
    return po::value<T>(&target)->value_name(value_name);
  }

  /// Not po::value<T>, which says only that a text is invalid.
  /// @param kind what it must be
  template <typename T>
  void add_number(const std::string& names, T& target, const std::string& default_text,
                  const std::string& value_name, const std::string& help, const char* kind) {
    const auto take = [this, &target, kind, name = long_name(names)](const std::string& text) {
      const bool has_plus = text.starts_with('+') && !text.starts_with("+-");
      T number{};
      bool is_right = parse_number(std::string_view(text).substr(has_plus ? 1 : 0), number);
      if constexpr (std::floating_point<T>) is_right = is_right && std::isfinite(number);
      if (!is_right)
        throw UsageError(fmt::format(
            "--{} is '{}'{}, but must be {}", name, printable(text),
            from_file.contains(name) ? fmt::format(" (in '{}')", config_filename) : "", kind));
      target = number;
    };
    current().add_options()(names.c_str(),
                            po::value<std::string>()
                                ->value_name(value_name)
                                ->default_value(default_text)
                                ->notifier(take),
                            help.c_str());
  }

  void all(po::options_description& to) const {
    for (const auto& [title, group] : groups) to.add(*group);
  }

  std::vector<std::string> names() const {
    std::vector<std::string> result{"help", "version", "config_filename"};
    for (const Option& option : options) result.push_back(option.name);
    return result;
  }

  [[noreturn]] void unknown(const std::string& given, const std::string& where) const {
    const std::string name = given.substr(0, given.find('='));
    const std::string bare = name.substr(std::min(name.size(), name.find_first_not_of('-')));
    std::string near = bare.size() > 1 ? closest(bare, names()) : "";
    for (const std::string& known : names()) {
      if (near.empty() && bare.size() > 3 && known.find(bare) != std::string::npos) near = known;
    }
    throw UsageError(
        fmt::format("there is no option '{}'{}; {}", printable(name), where,
                    near.empty() ? "--help lists what there is" : "did you mean --" + near + "?"));
  }

  void print_help() const {
    std::ostringstream text;
    text << program << ": " << summary << "\n\nUsage: " << program
         << (words == nullptr ? "" : " " + words_usage) << " [options]\n";
    if (words != nullptr) text << "\n" << words_help << "\n";
    for (const auto& [title, group] : groups) text << "\n" << *group;
    po::options_description general("General", kHelpWidth, kHelpWidth / 2);
    general.add_options()("help,h", "show this")(
        "version", "show the version and the commit it was built from")(
        "config_filename,c", po::value<std::string>()->value_name("FILE"),
        "read options from an INI file of 'name = value' lines; the command line overrules it. "
        "Where an option takes several values they stand side by side, those with blanks in "
        "quotes");
    text << "\n" << general;
    if (!examples.empty()) text << "\nExamples:\n" << examples;
    text << "\nExit status: 0 done, 1 wrong usage, 2 failed, 75 interrupted: start the same "
            "command again to go on.\n";
    fmt::print("{}", text.str());
  }
};

Parser::Parser(std::string program, std::string summary, std::string examples)
    : state_(std::make_unique<State>()) {
  state_->program = std::move(program);
  state_->summary = std::move(summary);
  state_->examples = std::move(examples);
  if (!state_->examples.empty() && state_->examples.back() != '\n') state_->examples += '\n';
}

Parser::~Parser() = default;

const std::string& Parser::program() const { return state_->program; }

void Parser::group(std::string title) {
  auto description = std::make_unique<po::options_description>(title, kHelpWidth, kHelpWidth / 2);
  state_->groups.emplace_back(std::move(title), std::move(description));
}

void Parser::add(const std::string& names, std::string& target, const std::string& value_name,
                 const std::string& help) {
  auto* value = state_->value(target, value_name);
  if (!target.empty()) value->default_value(target);
  state_->current().add_options()(names.c_str(), value, help.c_str());
  state_->options.push_back({long_name(names), [&target] { return target; }});
}

void Parser::add(const std::string& names, Path& target, const std::string& value_name,
                 const std::string& help) {
  // Not po::value<Path>: reading a path from a stream stops at the first blank.
  auto* value =
      po::value<std::string>()->value_name(value_name)->notifier([&target](std::string text) {
        // "tiles/" and "tiles" are one folder, also where records are compared.
        while (text.size() > 1 && text.back() == '/') text.pop_back();
        target = text;
      });
  if (!target.empty()) value->default_value(target.string());
  state_->current().add_options()(names.c_str(), value, help.c_str());
  state_->options.push_back({long_name(names), [&target] { return target.string(); }});
}

void Parser::add(const std::string& names, std::int64_t& target, const std::string& value_name,
                 const std::string& help) {
  state_->add_number(names, target, fmt::format("{}", target), value_name, help,
                     "a whole number of at most 64 bits");
  state_->options.push_back(
      {long_name(names), [&target] { return fmt::format("{}", target); }, Setting::Type::kInteger});
}

void Parser::add(const std::string& names, double& target, const std::string& value_name,
                 const std::string& help) {
  state_->add_number(names, target, number_text(target), value_name, help, "a finite number");
  state_->options.push_back(
      {long_name(names), [&target] { return number_text(target); }, Setting::Type::kReal});
}

void Parser::add(const std::string& names, std::vector<std::string>& target,
                 const std::string& value_name, const std::string& help) {
  state_->current().add_options()(names.c_str(), state_->value(target, value_name)->multitoken(),
                                  help.c_str());
  state_->options.push_back({long_name(names),
                             [&target] { return fmt::format("{}", fmt::join(target, " ")); },
                             Setting::Type::kText, nullptr, true});
}

void Parser::add(const std::string& names, bool& target, const std::string& help) {
  auto* value = po::value<bool>(&target)->implicit_value(true)->zero_tokens();
  state_->current().add_options()(names.c_str(), value, help.c_str());
  state_->options.push_back({long_name(names), [&target] { return target ? "true" : "false"; },
                             Setting::Type::kText, [&target](bool on) { target = on; }});
}

void Parser::add_choice(const std::string& names, std::string& target,
                        std::vector<std::string> choices, const std::string& help) {
  add(names, target, fmt::format("{{{}}}", fmt::join(choices, ",")), help);
  state_->checks.push_back([this, name = long_name(names), &target, choices = std::move(choices)] {
    if (target.empty() && !is_given(name)) return;
    if (std::find(choices.begin(), choices.end(), target) != choices.end()) return;
    throw UsageError(fmt::format("--{} is '{}', but must be one of {}", name, printable(target),
                                 enumerate(choices)));
  });
}

void Parser::add_words(std::vector<std::string>& target, const std::string& usage,
                       const std::string& help) {
  state_->words = &target;
  state_->words_usage = usage;
  state_->words_help = help;
}

void Parser::require(std::vector<std::string> names) { state_->required = std::move(names); }

bool Parser::parse(int argc, const char* const* argv) {
  State& state = *state_;
  std::vector<std::string> arguments = with_underscores(argc, argv);
  // Help once, also where mpirun starts many.
  const bool is_first = mpi::launched_rank() <= 0;
  for (const std::string& argument : arguments) {
    if (argument == "--") break;
    if (argument == "--help" || argument == "-h") {
      if (is_first) state.print_help();
      return false;
    }
    if (argument == "--version") {
      if (is_first) {
        fmt::print("{} {} ({})\n", state.program, version(), git_commit());
      }
      return false;
    }
  }

  po::options_description everything;
  state.all(everything);
  everything.add_options()("config_filename,c", po::value<std::string>(&state.config_filename));
  po::options_description with_words;
  with_words.add(everything);
  po::positional_options_description positional;
  if (state.words != nullptr) {
    with_words.add_options()(kWords, po::value<std::vector<std::string>>(state.words));
    positional.add(kWords, -1);
  }
  using Style = po::command_line_style::style_t;
  const int style = static_cast<int>(Style::unix_style) & ~static_cast<int>(Style::allow_guessing);
  std::map<std::string, bool> switches = take_switches(arguments, state.options);
  try {
    po::command_line_parser parser(arguments);
    parser.options(with_words).style(style);
    if (state.words != nullptr) parser.positional(positional);
    const po::parsed_options parsed = parser.run();
    for (const auto& option : parsed.options) {
      if (!option.string_key.empty()) continue;
      throw UsageError(
          fmt::format("'{}' belongs to no option: every value follows its --name, and "
                      "only those that --help shows with ... take several",
                      printable(option.value.at(0))));
    }
    po::store(parsed, state.values);
    if (state.values.count("config_filename") != 0U) {
      const std::string name = state.values["config_filename"].as<std::string>();
      const Bytes content = read_file(name, std::uint64_t{1} << 20);
      const std::string_view text(reinterpret_cast<const char*>(content.data()), content.size());
      std::vector<std::string> options = options_in(text, name, state.options);
      for (const auto& [key, on] : take_switches(options, state.options)) {
        if (!is_given(key)) switches.emplace(key, on);
      }
      try {
        const po::parsed_options more =
            po::command_line_parser(options).options(everything).style(style).run();
        for (const auto& option : more.options) {
          if (!is_given(option.string_key)) state.from_file.insert(option.string_key);
        }
        po::store(more, state.values);
      } catch (const po::unknown_option& error) {
        state.unknown(error.get_option_name(), fmt::format(" (in '{}')", name));
      } catch (const po::error& error) {
        throw UsageError(fmt::format("configuration file '{}': {}", name, error.what()));
      }
    }
    po::notify(state.values);
    for (const Option& option : state.options) {
      const auto found = switches.find(option.name);
      if (found != switches.end()) option.turn(found->second);
    }
  } catch (const po::unknown_option& error) {
    state.unknown(error.get_option_name(), "");
  } catch (const po::error& error) {
    throw UsageError(fmt::format("{} (see --help)", error.what()));
  }
  for (const std::string& name : state.required) {
    if (!is_given(name)) throw UsageError(fmt::format("--{} is missing (see --help)", name));
  }
  for (const auto& check : state.checks) check();
  return true;
}

Settings Parser::as_used() const {
  Settings result;
  for (const Option& option : state_->options)
    result.emplace_back(option.name, option.as_text(), option.type);
  return result;
}

bool Parser::is_given(const std::string& name) const {
  return state_->values.count(name) != 0U && !state_->values[name].defaulted();
}

}  // namespace quadrat::cli
