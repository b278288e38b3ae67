# Every *_kernel.cpp is compiled once per instruction set; the code is the same, the flags and the
# name of the table it exports (STMIXER_ISA) differ. No contraction anywhere: a fused multiply-add
# would round differently from one instruction set to the next.

function(stmixer_compile_options target)
  target_compile_options(${target} PRIVATE -Wall -Wextra -ffp-contract=off)
  if(STMIXER_SANITIZE)
    target_compile_options(${target} PRIVATE
      -fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer -g)
    target_link_options(${target} PRIVATE -fsanitize=address,undefined)
  endif()
endfunction()

function(stmixer_add_kernels target)
  set(isas scalar)
  if(CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64|amd64")
    list(APPEND isas avx2 avx512)
    target_compile_definitions(${target} PRIVATE STMIXER_X86=1)
  endif()
  set(flags_scalar "")
  set(flags_avx2 -mavx2 -mbmi -mbmi2 -mlzcnt -mpopcnt -mprfchw)
  # GCC 12's own AVX-512 headers are called uninitialized (GCC bug 105593).
  set(flags_avx512 $<$<CXX_COMPILER_ID:GNU>:-Wno-maybe-uninitialized> ${flags_avx2} -mavx512f -mavx512bw -mavx512dq -mavx512vl
      -mprefer-vector-width=512)
  foreach(isa ${isas})
    add_library(${target}_${isa} OBJECT ${ARGN})
    target_include_directories(${target}_${isa} PRIVATE csrc/include csrc)
    # -O3 after CMake's own level; math without errno and traps lets loops vectorise without
    # changing any value; no exceptions, whose handlers would bring a weak symbol along.
    target_compile_options(${target}_${isa} PRIVATE
      -O3 -fno-math-errno -fno-trapping-math -fno-exceptions ${flags_${isa}})
    target_compile_definitions(${target}_${isa} PRIVATE STMIXER_ISA=${isa})
    stmixer_compile_options(${target}_${isa})
    target_sources(${target} PRIVATE $<TARGET_OBJECTS:${target}_${isa}>)
  endforeach()
endfunction()
