#pragma once

namespace quadrat {

/// What the vector units of the processor this runs on can do; all false where it is no x86-64.
/// Where the environment has QUADRAT_NO_AMX, it is as if there were none: for the same last digits
/// as on processors without. QUADRAT_NO_AVX512 is for trying what others compute: torch and oneDNN
/// still choose for themselves. Cheap to ask.
struct CpuFeatures {
  bool avx2 = false;  ///< AVX2 and fused multiply-add
  bool avx512 =
      false;          ///< AVX-512 F, BW, VL and DQ: what every server since 2017 with any of it has
  bool bf16 = false;  ///< multiplies pairs of bfloat16 in hardware
  bool vnni = false;  ///< multiplies fours of bytes in hardware, adding in 32 bits
  bool amx = false;   ///< multiplies tiles of bytes and of bfloat16, and the system allows it
};

CpuFeatures cpu_features();

}  // namespace quadrat
