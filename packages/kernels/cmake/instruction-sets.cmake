# Compiler flags by file name: x_avx2.cpp, x_avx512.cpp and x_avx512vnni.cpp are compiled for what they are named after and only run
# where the processor has it (native/cpu/dispatch.cpp). Other processors than x86-64 leave these files out.
include(CheckCXXSourceCompiles)

check_cxx_source_compiles("
#if !defined(__x86_64__) && !defined(_M_X64)
#error not x86-64
#endif
int main() { return 0; }" QSPEC_IS_X86_64)

set(QSPEC_FLAGS_avx2 -mavx2 -mfma -mf16c)
set(QSPEC_FLAGS_avx512 ${QSPEC_FLAGS_avx2} -mavx512f -mavx512bw -mavx512vl -mavx512dq)
set(QSPEC_FLAGS_avx512vnni ${QSPEC_FLAGS_avx512} -mavx512vnni)

function(qspec_set_instruction_sets list_name)
  set(kept)
  foreach(source IN LISTS ${list_name})
    if(source MATCHES "_(avx2|avx512|avx512vnni)\\.cpp$")
      if(NOT QSPEC_IS_X86_64)
        continue()
      endif()
      set_source_files_properties(${source} PROPERTIES COMPILE_OPTIONS "${QSPEC_FLAGS_${CMAKE_MATCH_1}}")
    endif()
    list(APPEND kept ${source})
  endforeach()
  set(${list_name} ${kept} PARENT_SCOPE)
endfunction()

# No contraction: `a * b + c` rounds twice on every compiler, so the reference gives the same bits everywhere.
function(qspec_set_warnings target)
  set_target_properties(${target} PROPERTIES POSITION_INDEPENDENT_CODE ON CXX_VISIBILITY_PRESET hidden VISIBILITY_INLINES_HIDDEN ON)
  if(NOT MSVC)
    target_compile_options(${target} PRIVATE $<$<COMPILE_LANGUAGE:CXX>:-ffp-contract=off -Wall -Wextra -Wno-unused-parameter>)
  endif()
endfunction()
