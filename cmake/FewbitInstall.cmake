# Installs the program, the room libraries, their headers and find_package(fewbit).
include(CMakePackageConfigHelpers)

get_property(rooms GLOBAL PROPERTY FEWBIT_ROOMS)
list(REMOVE_ITEM rooms testing)
set(targets)
foreach(room ${rooms})
  list(APPEND targets fewbit_${room})
  set_target_properties(fewbit_${room} PROPERTIES EXPORT_NAME ${room})
endforeach()
install(TARGETS ${targets} EXPORT fewbit-targets ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR})
install(TARGETS fewbit RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
install(DIRECTORY src/fewbit DESTINATION ${CMAKE_INSTALL_INCLUDEDIR} FILES_MATCHING PATTERN "*.h"
        PATTERN "testing" EXCLUDE PATTERN "cli" EXCLUDE)
install(EXPORT fewbit-targets NAMESPACE fewbit:: DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/fewbit)
configure_package_config_file(cmake/fewbit-config.cmake.in
                              ${CMAKE_BINARY_DIR}/fewbit-config.cmake
                              INSTALL_DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/fewbit)
write_basic_package_version_file(${CMAKE_BINARY_DIR}/fewbit-config-version.cmake
                                 COMPATIBILITY SameMinorVersion)
install(FILES ${CMAKE_BINARY_DIR}/fewbit-config.cmake ${CMAKE_BINARY_DIR}/fewbit-config-version.cmake
        DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/fewbit)
