#pragma once

#include "quadrat/record/run_record.h"
#include "quadrat/train/options.h"

namespace quadrat {

/// quadrat-finetune: fine-tunes a network on all ranks and writes runs/NAME/ as it goes (DESIGN,
/// sections 4 and 6). Starts MPI. Results on stdout, progress on stderr.
/// @param config every option as used, for the record and for recognising the run when it is
/// started again
/// @return the exit status: 0 complete, 75 interrupted and resumable @throws Error
int finetune(const FinetuneOptions& options, const Settings& config);

}  // namespace quadrat
