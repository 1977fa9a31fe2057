#define QUADRAT_VECTORS avx512
#include "normalize_kernels.h"
