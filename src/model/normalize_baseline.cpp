#define QUADRAT_VECTORS baseline
#include "normalize_kernels.h"
