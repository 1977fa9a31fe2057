#include "quadrat/score/cpu_abilities.h"

#include <fmt/format.h>

#include "quadrat/base/cpu.h"
#include "quadrat/base/error.h"

namespace quadrat::score {

CpuAbilities CpuAbilities::of(const mpi::Communicator& ranks) {
  CpuAbilities cpu;
  cpu.has_bf16 = ranks.min(is_supported(Precision::kBf16) ? 1 : 0) == 1;
  cpu.accelerates_bf16 = ranks.min(is_accelerated(Precision::kBf16) ? 1 : 0) == 1;
  cpu.has_int8 = ranks.min(is_supported(Precision::kInt8) ? 1 : 0) == 1;
  cpu.has_int16 = ranks.min(is_supported(Precision::kInt16) ? 1 : 0) == 1;
  cpu.has_amx = ranks.min(cpu_features().amx ? 1 : 0) == 1;
  return cpu;
}

void CpuAbilities::require(Precision precision) const {
  if (precision == Precision::kBf16 && !has_bf16) {
    throw UsageError(
        "--precision is bf16, but not every rank's CPU has AVX-512; give --precision fp32");
  }
  if (precision == Precision::kInt8 && !has_int8) {
    throw UsageError(
        "--precision is int8, but not every rank's CPU has AVX-512 VNNI; give --precision auto");
  }
  if (precision == Precision::kInt16 && !has_int16) {
    throw UsageError(
        "--precision is int16, but not every rank's CPU has AVX2; give --precision fp32");
  }
}

std::string CpuAbilities::name() const {
  return fmt::format("{}{}{}{}{}", has_int16 ? "avx2" : "", has_bf16 ? " avx512" : "",
                     accelerates_bf16 ? " bf16" : "", has_int8 ? " vnni" : "",
                     has_amx ? " amx" : "");
}

}  // namespace quadrat::score
