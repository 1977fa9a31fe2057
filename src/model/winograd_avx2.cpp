#define QUADRAT_VECTORS avx2
#include "winograd_kernels.h"
