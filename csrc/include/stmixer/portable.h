#pragma once
// What headers that CUDA kernels share need to know of their compiler. NVRTC, which compiles them
// on machines without a toolkit, has no standard library.
#if defined(__CUDACC_RTC__)
typedef signed char int8_t;
typedef unsigned char uint8_t;
typedef unsigned short uint16_t;
typedef int int32_t;
typedef unsigned int uint32_t;
typedef long long int64_t;
typedef unsigned long long uint64_t;
typedef unsigned long long uintptr_t;
#define __builtin_memcpy memcpy  // which is built in there by that name
#else
#include <cmath>
#include <cstdint>
#endif

// Functions of one neuron or one index. Internal linkage, see common/simd.h.
#if defined(__CUDACC__)
#define STMIXER_STEP static __host__ __device__ __forceinline__
#else
#define STMIXER_STEP static inline
#endif
