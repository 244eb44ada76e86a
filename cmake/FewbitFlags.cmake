# Language level, warnings, sanitizers, compiler cache.
set(CMAKE_CXX_STANDARD 20)
set(CMAKE_CXX_STANDARD_REQUIRED ON)
set(CMAKE_CXX_EXTENSIONS OFF)
# One setting for libraries and programs, so that they can share a precompiled header.
add_compile_options(-fPIC)
if(NOT CMAKE_BUILD_TYPE)
  set(CMAKE_BUILD_TYPE Release)
endif()
set(CMAKE_CXX_FLAGS_RELEASE "-O3 -DNDEBUG")

add_library(fewbit_flags INTERFACE)
target_compile_options(fewbit_flags INTERFACE -Wall -Wextra -Werror -Wshadow -Wnon-virtual-dtor
                                              -Woverloaded-virtual -Wno-missing-field-initializers)
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
  # False positives of GCC 12 at -O3 in library headers (bug 105562 and relatives).
  target_compile_options(fewbit_flags INTERFACE -Wno-restrict -Wno-maybe-uninitialized
                                                -Wno-stringop-overflow -Wno-array-bounds
                                                -Wno-stringop-overread -Wno-dangling-pointer)
endif()
target_include_directories(fewbit_flags INTERFACE "$<BUILD_INTERFACE:${CMAKE_SOURCE_DIR}/src>"
                                                  "$<BUILD_INTERFACE:${CMAKE_BINARY_DIR}/generated>")
if(FEWBIT_SANITIZE)
  add_compile_options(-fsanitize=${FEWBIT_SANITIZE} -fno-omit-frame-pointer
                      -fno-sanitize-recover=all)
  add_link_options(-fsanitize=${FEWBIT_SANITIZE})
endif()
if(FEWBIT_FUZZ)
  # Coverage of the libraries guides the fuzzers; their own main comes with tests/fuzz.
  add_compile_options(-fsanitize=fuzzer-no-link)
  add_compile_definitions(_GLIBCXX_ASSERTIONS)
endif()

find_program(FEWBIT_CCACHE ccache)
if(FEWBIT_CCACHE AND NOT CMAKE_CXX_COMPILER_LAUNCHER)
  set(CMAKE_CXX_COMPILER_LAUNCHER
      ${CMAKE_COMMAND} -E env CCACHE_BASEDIR=${CMAKE_SOURCE_DIR} CCACHE_NOHASHDIR=1
      CCACHE_SLOPPINESS=pch_defines,time_macros,include_file_mtime,include_file_ctime
      ${FEWBIT_CCACHE})
  if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
    add_compile_options($<$<COMPILE_LANGUAGE:CXX>:-fpch-preprocess>)
  endif()
endif()
