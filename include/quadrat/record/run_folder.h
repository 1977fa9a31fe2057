#pragma once

#include <functional>
#include <string>
#include <vector>

#include "quadrat/base/files.h"
#include "quadrat/base/folder_lock.h"
#include "quadrat/record/run_record.h"

namespace quadrat {

/// What `work` returns; where it throws, `mark_failed` runs first, whose own failure to write is
/// nobody's concern then.
int or_mark_failed(const std::function<int()>& work, const std::function<void()>& mark_failed);

/// runs/NAME/, the files of one training run (DESIGN, section 6). Used on rank 0 alone.
class RunFolder {
 public:
  RunFolder(Path runs, std::string name);

  Path path() const { return path_; }
  Path record() const { return path_ / "run.h5"; }
  Path checkpoint() const { return path_ / "checkpoint.safetensors"; }
  Path model() const { return path_ / "model.safetensors"; }

  /// Whether an earlier start of the same run has done it all. Options for which is_how_it_ran may
  /// differ.
  /// @param may_go_on whether an unfinished run of that name is to be gone on with
  /// @throws InputError where a run of that name has other settings, naming the first that differ,
  ///   is unfinished and not to be gone on with, or is complete and its model is gone
  bool is_complete(const Settings& config, bool may_go_on) const;

  /// Makes the folder, holds it for as long as this object lives, and removes what killed processes
  /// left there. @throws IoError @throws InputError where another process is at work in it, or was
  /// until now and completed the run
  void prepare();

  /// labels_to_inds.tsv and model.info.
  void write_labels_and_info(const std::vector<std::string>& classes,
                             const std::vector<std::pair<std::string, std::string>>& info) const;

  /// predictions_validation.csv
  void write_predictions(const Predictions& predictions,
                         const std::vector<std::string>& classes) const;

 private:
  Path path_;
  FolderLock lock_;
};

}  // namespace quadrat
