# Adds native/cuda (target qspec_cuda) where it is there and a CUDA toolkit is found. QSPEC_CUDA_FOUND (kept in the cache for
# scripts/build-native.mjs) says how it ended, QSPEC_CUDA_ABSENCE why not: words that finish "this build has no CUDA kernels (…)".
set(QSPEC_CUDA_FOUND OFF)
set(QSPEC_CUDA_ABSENCE "CUDA was switched off when it was built")
string(TOUPPER "${QSPEC_CUDA}" qspec_cuda_choice)

if(NOT qspec_cuda_choice STREQUAL "OFF")
  include(CheckLanguage)
  if(NOT CMAKE_CUDA_COMPILER)
    unset(CMAKE_CUDA_COMPILER CACHE) # an earlier search found none; it may have been installed since
  endif()
  check_language(CUDA)
  find_package(CUDAToolkit QUIET)
  if(NOT EXISTS ${CMAKE_CURRENT_SOURCE_DIR}/native/cuda/CMakeLists.txt)
    set(QSPEC_CUDA_ABSENCE "this source tree has no native/cuda")
  elseif(NOT CMAKE_CUDA_COMPILER)
    set(QSPEC_CUDA_ABSENCE "nvcc was not found when it was built")
  elseif(NOT CUDAToolkit_FOUND OR CUDAToolkit_VERSION VERSION_LESS 12.4)
    set(QSPEC_CUDA_ABSENCE "the CUDA toolkit was older than 12.4 when it was built")
  else()
    set(QSPEC_CUDA_FOUND ON)
    set(CMAKE_POSITION_INDEPENDENT_CODE ON) # it becomes part of the addon
    # Machine code is packed, too, and unpacked by the driver when it is loaded: a third of the size.
    add_compile_options($<$<COMPILE_LANGUAGE:CUDA>:-Xfatbin=-compress-all>)
    add_subdirectory(native/cuda EXCLUDE_FROM_ALL)
  endif()
  if(qspec_cuda_choice STREQUAL "ON" AND NOT QSPEC_CUDA_FOUND)
    message(FATAL_ERROR "QSPEC_CUDA=ON but ${QSPEC_CUDA_ABSENCE}: it needs native/cuda and a CUDA toolkit (12.4 or newer; on the PATH, or CMAKE_CUDA_COMPILER).")
  endif()
endif()
set(QSPEC_CUDA_FOUND ${QSPEC_CUDA_FOUND} CACHE INTERNAL "native/cuda is part of this build tree")
