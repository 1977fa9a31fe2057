#define QUADRAT_VECTORS avx2
#include "normalize_kernels.h"
