# The CUDA kernels. Whatever is decided here, their sources are installed for NVRTC, and the host
# code that plans launches is part of the library. STMIXER_CUDA:
#   AUTO  built in where a CUDA compiler that works is found, a GPU or not: the runtime is linked
#         statically and loads a driver at the first launch only, so the result runs everywhere
#   ON    built in, or an error
#   OFF   not built in

if(NOT STMIXER_CUDA MATCHES "^(AUTO|ON|OFF)$")
  message(FATAL_ERROR "STMIXER_CUDA must be AUTO, ON or OFF, not '${STMIXER_CUDA}'")
endif()

# Machine code for both, and PTX of the later one for what comes after.
if(NOT DEFINED CMAKE_CUDA_ARCHITECTURES)
  set(CMAKE_CUDA_ARCHITECTURES 80-real 90)
endif()

set(STMIXER_HAS_CUDA OFF)
if(NOT STMIXER_CUDA STREQUAL "OFF")
  include(CheckLanguage)
  check_language(CUDA)
  find_package(CUDAToolkit QUIET)
  if(CMAKE_CUDA_COMPILER AND TARGET CUDA::cudart_static)
    enable_language(CUDA)
    set(STMIXER_HAS_CUDA ON)
  elseif(STMIXER_CUDA STREQUAL "ON")
    message(FATAL_ERROR "STMIXER_CUDA=ON needs a working nvcc with its static runtime; "
      "put nvcc on the PATH or set CUDACXX or CMAKE_CUDA_COMPILER, or use AUTO or OFF")
  endif()
endif()
message(STATUS "CUDA kernels built in: ${STMIXER_HAS_CUDA} (STMIXER_CUDA=${STMIXER_CUDA})")

function(stmixer_add_cuda target)
  if(NOT STMIXER_HAS_CUDA)
    return()
  endif()
  file(GLOB kernels CONFIGURE_DEPENDS csrc/cuda/*.cu)
  # Objects, not an archive: nothing refers to the kernels but the table they enter themselves in.
  add_library(${target}_cuda OBJECT ${kernels} csrc/cuda/launch.cpp)
  target_include_directories(${target}_cuda PRIVATE csrc csrc/include)
  target_compile_definitions(${target}_cuda PRIVATE STMIXER_CUDA_TABLE=1)
  # No contraction, as everywhere.
  target_compile_options(${target}_cuda PRIVATE $<$<COMPILE_LANGUAGE:CUDA>:-fmad=false>)
  set_target_properties(${target}_cuda PROPERTIES CUDA_STANDARD 17 CUDA_STANDARD_REQUIRED ON
    CUDA_VISIBILITY_PRESET hidden)
  target_link_libraries(${target}_cuda PRIVATE CUDA::cudart_static)
  target_sources(${target} PRIVATE $<TARGET_OBJECTS:${target}_cuda>)
  target_compile_definitions(${target} PRIVATE STMIXER_HAS_CUDA=1)
  target_link_libraries(${target} PRIVATE CUDA::cudart_static)
endfunction()

# What NVRTC compiles on a machine with a GPU and CuPy but no nvcc.
function(stmixer_install_cuda_sources destination)
  file(GLOB sources csrc/cuda/*.cu csrc/cuda/*.h)
  install(FILES ${sources} DESTINATION ${destination}/cuda)
  foreach(header portable lif_step neuron element bn_affine lif bn_lif pack)
    install(FILES csrc/include/stmixer/${header}.h DESTINATION ${destination}/include/stmixer)
  endforeach()
endfunction()
