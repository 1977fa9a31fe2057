#include "faults.h"

#include <cerrno>
#include <chrono>
#include <cstring>
#include <fstream>
#include <iterator>
#include <sstream>
#include <thread>

namespace quadrat::faults {

namespace {

int error_number(const std::string& name) {
  static const std::map<std::string, int> known{{"ENOSPC", ENOSPC}, {"EIO", EIO},
                                                {"ESTALE", ESTALE}, {"EDQUOT", EDQUOT},
                                                {"EACCES", EACCES}, {"EROFS", EROFS}};
  const auto it = known.find(name);
  return it == known.end() ? 0 : it->second;
}

std::string read_all(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

std::string name_of(pid_t thread) {
  const std::string folder = "/proc/" + std::to_string(thread);
  const std::string environment = read_all(folder + "/environ");
  constexpr const char* kRank = "OMPI_COMM_WORLD_RANK=";
  for (std::size_t at = 0; at < environment.size();
       at += std::strlen(environment.c_str() + at) + 1) {
    const std::string entry = environment.c_str() + at;
    if (entry.starts_with(kRank)) return "rank" + entry.substr(std::strlen(kRank));
  }
  std::string name = read_all(folder + "/comm");
  if (!name.empty() && name.back() == '\n') name.pop_back();
  for (char& c : name) c = c == ' ' ? '_' : c;
  return name.empty() ? "unknown" : name;
}

}  // namespace

std::string Faults::set(const std::string& text) {
  std::istringstream lines(text);
  std::string line, not_understood, room_line;
  double latency_ms = 0;
  std::vector<Rule> rules;
  bool short_reads = false, no_locks = false;
  std::int64_t room_bytes = -1;
  while (std::getline(lines, line)) {
    std::istringstream words(line);
    std::string word;
    if (!(words >> word)) continue;
    bool understood = true;
    if (word == "latency_ms") {
      understood = static_cast<bool>(words >> latency_ms);
    } else if (word == "fail") {
      Rule rule;
      std::string error;
      words >> rule.operation >> error >> rule.text;
      rule.error = error_number(error);
      understood = rule.error != 0;
      rules.push_back(rule);
    } else if (word == "room_bytes") {
      room_line = line;
      understood = static_cast<bool>(words >> room_bytes);
    } else if (word == "short_reads") {
      short_reads = true;
    } else if (word == "no_locks") {
      no_locks = true;
    } else {
      understood = false;
    }
    if (!understood) not_understood = line;
  }
  const std::lock_guard lock(mutex_);
  latency_ms_ = latency_ms;
  rules_ = std::move(rules);
  short_reads_ = short_reads;
  no_locks_ = no_locks;
  // The same line again is no new room.
  if (room_line != room_line_) room_bytes_ = room_line.empty() ? -1 : room_bytes;
  room_line_ = room_line;
  return not_understood;
}

int Faults::before(const std::string& operation, const std::string& path) const {
  double latency_ms = 0;
  int error = 0;
  {
    const std::lock_guard lock(mutex_);
    latency_ms = latency_ms_;
    for (const Rule& rule : rules_) {
      if (rule.operation == operation && path.find(rule.text) != std::string::npos)
        error = rule.error;
    }
  }
  if (latency_ms > 0)
    std::this_thread::sleep_for(std::chrono::duration<double, std::milli>(latency_ms));
  return error;
}

std::size_t Faults::take_room(std::size_t bytes) {
  const std::lock_guard lock(mutex_);
  if (room_bytes_ < 0) return bytes;
  const auto granted = std::min<std::int64_t>(static_cast<std::int64_t>(bytes), room_bytes_);
  room_bytes_ -= granted;
  return static_cast<std::size_t>(granted);
}

bool Faults::short_reads() const {
  const std::lock_guard lock(mutex_);
  return short_reads_;
}

bool Faults::no_locks() const {
  const std::lock_guard lock(mutex_);
  return no_locks_;
}

const std::string& Counts::who(pid_t thread) {
  const auto it = names_.find(thread);
  return it != names_.end() ? it->second : names_.emplace(thread, name_of(thread)).first->second;
}

void Counts::add(const std::string& operation, pid_t thread) {
  const std::lock_guard lock(mutex_);
  ++counts_[who(thread)][operation];
}

std::string Counts::text() const {
  const std::lock_guard lock(mutex_);
  std::string text;
  for (const auto& [name, operations] : counts_) {
    for (const auto& [operation, count] : operations)
      text += name + " " + operation + " " + std::to_string(count) + "\n";
  }
  return text;
}

}  // namespace quadrat::faults
