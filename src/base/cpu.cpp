#include "quadrat/base/cpu.h"

#include <cstdlib>

#if defined(__x86_64__) && defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace quadrat {

namespace {

/// Linux keeps the tile registers of a process only where it asks for that (Linux's
/// Documentation/arch/x86/xstate.rst).
bool may_use_tiles() {
#if defined(__x86_64__) && defined(__linux__)
  constexpr long kRequestPermission = 0x1023;
  constexpr long kTileData = 18;
  static const bool may = std::getenv("QUADRAT_NO_AMX") == nullptr &&
                          syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
  return may;
#else
  return false;
#endif
}

}  // namespace

CpuFeatures cpu_features() {
  CpuFeatures found;
#if defined(__x86_64__)
  found.avx2 = __builtin_cpu_supports("avx2") != 0 && __builtin_cpu_supports("fma") != 0;
  static const bool may_use_avx512 = std::getenv("QUADRAT_NO_AVX512") == nullptr;
  found.avx512 = may_use_avx512 && __builtin_cpu_supports("avx512f") != 0 &&
                 __builtin_cpu_supports("avx512bw") != 0 &&
                 __builtin_cpu_supports("avx512vl") != 0 && __builtin_cpu_supports("avx512dq") != 0;
  found.bf16 = found.avx512 && __builtin_cpu_supports("avx512bf16") != 0;
  found.vnni = found.avx512 && __builtin_cpu_supports("avx512vnni") != 0;
  found.amx = found.bf16 && found.vnni && __builtin_cpu_supports("amx-tile") != 0 &&
              __builtin_cpu_supports("amx-int8") != 0 && __builtin_cpu_supports("amx-bf16") != 0 &&
              may_use_tiles();
#endif
  return found;
}

}  // namespace quadrat
