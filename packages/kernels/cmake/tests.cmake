# Each native/tests/test_x.cpp is one executable and one CTest test; exit code 0 means that all its cases passed.
file(GLOB QSPEC_TEST_SOURCES CONFIGURE_DEPENDS native/tests/test_*.cpp)
add_custom_target(qspec_tests)

foreach(source IN LISTS QSPEC_TEST_SOURCES)
  get_filename_component(name ${source} NAME_WE)
  add_executable(${name} EXCLUDE_FROM_ALL ${source})
  target_link_libraries(${name} PRIVATE qspec_cpu)
  target_include_directories(${name} PRIVATE native/tests)
  qspec_set_warnings(${name})
  add_dependencies(qspec_tests ${name})
  add_test(NAME ${name} COMMAND ${name})
  set_tests_properties(${name} PROPERTIES TIMEOUT 600)
endforeach()

# The CUDA kernels' logic over an emulator (no GPU, no nvcc): its fibers are written for x86-64 with the System V calling convention.
if(QSPEC_IS_X86_64 AND UNIX AND NOT APPLE)
  add_subdirectory(native/cuda/emulator ${CMAKE_CURRENT_BINARY_DIR}/emulator)
endif()
