#pragma once

/// Marks a function that nvcc compiles for the GPU as well as for the CPU; nothing to other
/// compilers.
#if defined(__CUDACC__)
#define QUADRAT_HOST_DEVICE __host__ __device__
#else
#define QUADRAT_HOST_DEVICE
#endif

/// Before a loop over an array that is to lie in registers on a GPU.
#if defined(__CUDA_ARCH__)
#define QUADRAT_UNROLL _Pragma("unroll")
#else
#define QUADRAT_UNROLL
#endif
