# build/Release/qspec.node. Only Node-API version 8 is used, so one binary serves every Node from 20 on.
file(GLOB QSPEC_ADDON_SOURCES CONFIGURE_DEPENDS native/binding/*.cpp)

add_library(qspec_addon MODULE ${QSPEC_ADDON_SOURCES} ${CMAKE_JS_SRC})
set_target_properties(qspec_addon PROPERTIES PREFIX "" SUFFIX ".node" OUTPUT_NAME qspec
                      LIBRARY_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/Release LIBRARY_OUTPUT_DIRECTORY_RELEASE ${CMAKE_BINARY_DIR}/Release)
target_include_directories(qspec_addon SYSTEM PRIVATE ${QSPEC_NODE_INCLUDE})
target_compile_definitions(qspec_addon PRIVATE NAPI_VERSION=8 NODE_ADDON_API_CPP_EXCEPTIONS_ALL NODE_API_SWALLOW_UNTHROWABLE_EXCEPTIONS
                           QSPEC_BUILD_TYPE="$<CONFIG>")
target_link_libraries(qspec_addon PRIVATE qspec_cpu ${CMAKE_JS_LIB})
if(QSPEC_CUDA_FOUND AND QSPEC_CUDA_ADDON)
  target_compile_definitions(qspec_addon PRIVATE QSPEC_HAS_CUDA=1)
  target_link_libraries(qspec_addon PRIVATE qspec_cuda)
else()
  if(QSPEC_CUDA_FOUND)
    set(QSPEC_CUDA_ABSENCE "QSPEC_CUDA_ADDON was off when it was built")
  endif()
  target_compile_definitions(qspec_addon PRIVATE QSPEC_HAS_CUDA=0 "QSPEC_CUDA_ABSENCE=\"${QSPEC_CUDA_ABSENCE}\"")
endif()
qspec_set_warnings(qspec_addon)
if(APPLE)
  target_link_options(qspec_addon PRIVATE -undefined dynamic_lookup) # Node itself has the napi_… symbols
elseif(NOT MSVC)
  target_link_options(qspec_addon PRIVATE -Wl,--exclude-libs,ALL)
endif()
