# fewbit_room(NAME DEPENDS rooms... [LIBRARIES targets...] [TORCH])
#
# A room is src/fewbit/NAME: *.cc make the static library fewbit_NAME, *_test.cc the program
# fewbit_NAME_test (tests whose suite name holds "Fixture" carry the ctest label `fixtures`),
# *_bench.cc the program fewbit_NAME_bench. A room of headers only is an interface library.
set_property(GLOBAL PROPERTY FEWBIT_ROOMS "")

if(FEWBIT_WITH_TORCH)
  file(CONFIGURE OUTPUT ${CMAKE_BINARY_DIR}/torch_pch.cc
       CONTENT "// Carries the precompiled <torch/torch.h>.\n")
  add_library(fewbit_torch_pch OBJECT ${CMAKE_BINARY_DIR}/torch_pch.cc)
  target_link_libraries(fewbit_torch_pch PRIVATE fewbit_flags torch OpenMP::OpenMP_CXX)
  target_precompile_headers(fewbit_torch_pch PRIVATE <torch/torch.h>)
endif()

# Reuses the precompiled header. It was made with -fPIC, so executables are compiled with it too.
function(fewbit_use_torch_pch TARGET)
  get_target_property(type ${TARGET} TYPE)
  if(type STREQUAL "EXECUTABLE")
    set_target_properties(${TARGET} PROPERTIES POSITION_INDEPENDENT_CODE OFF)
    target_compile_options(${TARGET} PRIVATE -fPIC)
  endif()
  target_precompile_headers(${TARGET} REUSE_FROM fewbit_torch_pch)
endfunction()

function(fewbit_room NAME)
  cmake_parse_arguments(ROOM "TORCH" "" "DEPENDS;LIBRARIES" ${ARGN})
  if(ROOM_TORCH AND NOT FEWBIT_WITH_TORCH)
    return()
  endif()
  set(dir ${CMAKE_SOURCE_DIR}/src/fewbit/${NAME})
  file(GLOB all_sources CONFIGURE_DEPENDS ${dir}/*.cc)
  set(sources ${all_sources})
  list(FILTER sources EXCLUDE REGEX "_(test|bench)\\.cc$")
  set(tests ${all_sources})
  list(FILTER tests INCLUDE REGEX "_test\\.cc$")
  set(benches ${all_sources})
  list(FILTER benches INCLUDE REGEX "_bench\\.cc$")

  set(room_libraries ${ROOM_LIBRARIES})
  foreach(dependency ${ROOM_DEPENDS})
    list(APPEND room_libraries fewbit_${dependency})
  endforeach()
  if(ROOM_TORCH)
    list(APPEND room_libraries torch)
  endif()

  if(sources)
    add_library(fewbit_${NAME} STATIC ${sources})
    target_link_libraries(fewbit_${NAME} PUBLIC ${room_libraries}
                                         PRIVATE $<BUILD_INTERFACE:fewbit_flags>)
    target_include_directories(fewbit_${NAME}
                               PUBLIC "$<BUILD_INTERFACE:${CMAKE_SOURCE_DIR}/src>"
                                      "$<INSTALL_INTERFACE:${CMAKE_INSTALL_INCLUDEDIR}>")
    target_compile_features(fewbit_${NAME} PUBLIC cxx_std_20)
    if(ROOM_TORCH)
      fewbit_use_torch_pch(fewbit_${NAME})
    endif()
  else()
    add_library(fewbit_${NAME} INTERFACE)
    target_link_libraries(fewbit_${NAME} INTERFACE ${room_libraries})
    target_include_directories(fewbit_${NAME}
                               INTERFACE "$<BUILD_INTERFACE:${CMAKE_SOURCE_DIR}/src>"
                                         "$<INSTALL_INTERFACE:${CMAKE_INSTALL_INCLUDEDIR}>")
  endif()
  set_property(GLOBAL APPEND PROPERTY FEWBIT_ROOMS ${NAME})

  if(FEWBIT_BUILD_TESTS AND tests)
    set(test_libraries fewbit_${NAME})
    # Any room's tests may read golden files through io.
    if(TARGET fewbit_io)
      list(APPEND test_libraries fewbit_io)
    endif()
    fewbit_test_program(fewbit_${NAME}_test ${NAME} SOURCES ${tests} LIBRARIES ${test_libraries})
    if(ROOM_TORCH)
      fewbit_use_torch_pch(fewbit_${NAME}_test)
    endif()
  endif()
  if(FEWBIT_BUILD_BENCH AND benches)
    add_executable(fewbit_${NAME}_bench ${benches})
    target_link_libraries(fewbit_${NAME}_bench PRIVATE fewbit_${NAME} fewbit_flags
                                                       benchmark::benchmark benchmark::benchmark_main)
    if(ROOM_TORCH)
      fewbit_use_torch_pch(fewbit_${NAME}_bench)
    endif()
  endif()
endfunction()

# fewbit_test_program(TARGET PREFIX SOURCES files... LIBRARIES targets...)
# Registers two ctest entries: PREFIX (all suites but fixtures) and PREFIX-fixtures.
function(fewbit_test_program TARGET PREFIX)
  cmake_parse_arguments(TEST "" "" "SOURCES;LIBRARIES" ${ARGN})
  add_executable(${TARGET} ${TEST_SOURCES})
  target_link_libraries(${TARGET} PRIVATE ${TEST_LIBRARIES} fewbit_testing fewbit_flags GTest::gmock
                                          GTest::gtest_main)
  add_test(NAME ${PREFIX} COMMAND ${TARGET} --gtest_filter=-*Fixture*)
  set_tests_properties(${PREFIX} PROPERTIES LABELS unit TIMEOUT 900)
  set(has_fixtures FALSE)
  foreach(source ${TEST_SOURCES})
    file(STRINGS ${source} found REGEX "FEWBIT_FIXTURE_TEST" LIMIT_COUNT 1)
    if(found)
      set(has_fixtures TRUE)
    endif()
  endforeach()
  if(has_fixtures)
    add_test(NAME ${PREFIX}-fixtures COMMAND ${TARGET} --gtest_filter=*Fixture*)
    set_tests_properties(${PREFIX}-fixtures PROPERTIES LABELS fixtures TIMEOUT 900)
  endif()
endfunction()
