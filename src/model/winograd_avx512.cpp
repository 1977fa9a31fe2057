#define QUADRAT_VECTORS avx512
#include "winograd_kernels.h"
