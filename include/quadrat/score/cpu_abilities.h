#pragma once

#include <string>

#include "quadrat/mpi/communicator.h"
#include "quadrat/score/plan.h"

namespace quadrat::score {

/// What every rank's CPU can do. The same on all ranks.
struct CpuAbilities {
  bool has_bf16 = false;
  bool accelerates_bf16 = false;
  bool has_int8 = false;
  bool has_int16 = false;
  bool has_amx = false;

  /// Collective.
  static CpuAbilities of(const mpi::Communicator& ranks);
  /// @throws UsageError where not every rank's CPU computes in the precision
  void require(Precision precision) const;
  /// "avx2 avx512 bf16 vnni amx"
  std::string name() const;
};

}  // namespace quadrat::score
