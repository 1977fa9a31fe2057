#pragma once

#include "quadrat/fit/options.h"
#include "quadrat/record/run_record.h"

namespace quadrat::fit {

/// quadrat-fit: what a pretrained network makes of the tiles, computed once on all ranks, and a
/// classifier on it; writes runs/NAME/ as fine-tuning does (DESIGN, section 6), so that everything
/// that uses a model uses this one too. Starts MPI. Results on stdout, progress on stderr.
/// @param options after validate()
/// @param config every option as used, for the record and for recognising the run when it is
/// started again
/// @return the exit status: 0 complete, 75 interrupted: the same command starts again @throws Error
int fit(const FitOptions& options, const Settings& config);

}  // namespace quadrat::fit
