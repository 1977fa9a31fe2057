#include "quadrat/base/cpu.h"

namespace quadrat {

CpuFeatures cpu_features() {
  CpuFeatures found;
#if defined(__x86_64__)
  found.avx2 = __builtin_cpu_supports("avx2") != 0 && __builtin_cpu_supports("fma") != 0;
  found.avx512 = __builtin_cpu_supports("avx512f") != 0 &&
                 __builtin_cpu_supports("avx512bw") != 0 &&
                 __builtin_cpu_supports("avx512vl") != 0 && __builtin_cpu_supports("avx512dq") != 0;
  found.bf16 = found.avx512 && __builtin_cpu_supports("avx512bf16") != 0;
  found.vnni = found.avx512 && __builtin_cpu_supports("avx512vnni") != 0;
#endif
  return found;
}

}  // namespace quadrat
