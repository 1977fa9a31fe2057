#include "quadrat/geo/cut.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "cutter.h"
#include "quadrat/base/clock.h"
#include "quadrat/base/error.h"
#include "quadrat/base/folder_lock.h"
#include "quadrat/base/text.h"

namespace quadrat::geo {

using nlohmann::json;
namespace fs = std::filesystem;

namespace {

constexpr const char* kPlanName = "plan.cbor";

/// Text of a file that must be small.
std::string read_text(const Path& path) {
  const Bytes content = read_file(path);
  return {reinterpret_cast<const char*>(content.data()), content.size()};
}

enum class Start { kFresh, kResume, kComplete };

/// Looks at what the output folder holds. On one rank.
Start inspect(const CutOptions& options) {
  const Path report = options.output / tile_folder::kReport;
  const Path settings = options.output / tile_folder::kUnfinished / "settings.json";
  std::error_code error;
  if (!fs::exists(options.output, error)) return Start::kFresh;
  if (!fs::is_directory(options.output, error)) {
    throw InputError("cut into", options.output.native(), "it is not a folder", "name a new one");
  }
  const auto same = [&](const std::string& asked) {
    if (asked == options.fingerprint()) return true;
    throw InputError("cut into", options.output.native(),
                     "it holds tiles cut with other settings or images",
                     "name another --output, or remove that folder");
  };
  // Without a plan nothing was cut: what was asked may change, say after an error in it.
  if (fs::exists(settings, error) &&
      fs::exists(options.output / tile_folder::kUnfinished / kPlanName, error)) {
    same(read_text(settings));
    // Killed between writing the report and removing the state: all is there.
    return Start::kResume;
  }
  if (fs::exists(report, error)) {
    same(asked_in_report(read_text(report), report.native()));
    return Start::kComplete;
  }
  for (const auto& entry : fs::directory_iterator(options.output)) {
    const Path name = entry.path().filename();
    if (name == tile_folder::kUnfinished || name == FolderLock::kName) continue;
    throw InputError("cut into", options.output.native(),
                     fmt::format("it is not empty: it holds '{}'", printable(name.native())),
                     "name a new folder");
  }
  return Start::kFresh;
}

}  // namespace

std::string CutOptions::fingerprint() const {
  const auto texts = [](const std::vector<std::string>& names) {
    std::vector<std::string> list;
    for (const std::string& name : names) list.push_back(as_utf8(name));
    return list;
  };
  std::vector<std::string> sorted = texts(images);
  std::sort(sorted.begin(), sorted.end());
  const json asked{{"images", sorted},
                   {"nlcd", as_utf8(nlcd.native())},
                   {"class_table", as_utf8(class_table.native())},
                   {"manifest", as_utf8(manifest.native())},
                   {"validation_fraction", validation_fraction},
                   {"validation_images", texts(validation_images)},
                   {"split_by", split_by},
                   {"balance", balance},
                   {"labels_only", labels_only},
                   {"seed", seed},
                   {"max_black_px", max_black_px},
                   {"png_level", png_level}};
  return asked.dump();
}

CutSummary cut_tiles(const CutOptions& options, const mpi::Communicator& ranks) {
  const auto began = Clock::now();
  const Path state = options.output / tile_folder::kUnfinished;
  FolderLock lock;  // rank 0
  auto start = Start::kFresh;
  int attempt = 0;
  mpi::together(ranks, [&] {
    if (!ranks.is_root()) return;
    start = inspect(options);
    if (start != Start::kComplete) {
      make_folder(state);
      lock.take(options.output, "cut into", "wait for it, or name another --output");
      start = inspect(options);  // another process may have been at work until now
    }
    if (start == Start::kComplete) {
      remove_leftovers(options.output);
      return;
    }
    if (start == Start::kFresh) {
      fs::remove_all(state);
      make_folder(state);
      write_file(state / "settings.json", options.fingerprint());
    }
    attempt = next_attempt(state);
  });
  const std::string told = ranks.broadcast(fmt::format("{} {}", static_cast<int>(start), attempt));
  start = static_cast<Start>(told.at(0) - '0');
  attempt = std::stoi(told.substr(2));
  if (start == Start::kComplete) {
    CutSummary summary;
    mpi::together(ranks, [&] {
      const Path report = options.output / tile_folder::kReport;
      const std::string text = read_text(report);
      summary = read_report(text, report.native());
      if (ranks.is_root()) warn_of_other_images(text, report.native(), options.images);
    });
    return summary;
  }

  std::vector<SurveyedImage> images = survey_images(options.images, ranks);
  // The plan is made once: a restart follows it, on however many ranks.
  const Path plan_path = state / kPlanName;
  Bytes stored;
  mpi::together(ranks, [&] {
    std::error_code error;
    if (ranks.is_root() && fs::exists(plan_path, error))
      stored = read_file(plan_path, std::uint64_t{1} << 40);
  });
  stored = ranks.broadcast(std::move(stored));
  CutPlan plan;
  if (stored.empty()) {
    plan = make_plan(options, images, ranks);
  } else {
    mpi::together(ranks, [&] { plan = CutPlan::deserialize(stored, images); });
  }
  Cutter cutter(options, ranks, std::move(images), std::move(plan));
  mpi::together(ranks, [&] {
    if (!ranks.is_root()) return;
    if (stored.empty()) write_file(plan_path, cutter.plan().serialize());
    if (!options.labels_only) cutter.make_folders();
  });

  const std::uint64_t cut_here = options.labels_only ? 0 : cutter.cut(attempt);
  const bool interrupted = mpi::any_asked_to_stop(ranks);
  const std::int64_t cut_now = ranks.sum(static_cast<std::int64_t>(cut_here));
  const double seconds = seconds_since(began);
  CutSummary summary;
  if (!interrupted) {
    mpi::together(ranks, [&] {
      if (ranks.is_root()) summary = cutter.finish(seconds);
    });
  }
  summary.interrupted = interrupted;
  summary.cut_now = static_cast<std::uint64_t>(cut_now);
  summary.seconds = seconds;
  return summary;
}

}  // namespace quadrat::geo
