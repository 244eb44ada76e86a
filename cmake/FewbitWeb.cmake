# The report page: web/ is bundled into one HTML file and embedded in the room `study`.
#
# The room's report_page.cc includes the generated file; naming it as an object's dependency makes
# the build bundle the page first, and again whenever a source of it changes.
if(NOT FEWBIT_WITH_TORCH)
  return()
endif()
find_program(FEWBIT_NODE node REQUIRED)
find_program(FEWBIT_NPM npm REQUIRED)

set(FEWBIT_REPORT_INC ${CMAKE_BINARY_DIR}/generated/fewbit/study/report_page.inc)
file(MAKE_DIRECTORY ${CMAKE_BINARY_DIR}/generated/fewbit/study)
file(GLOB_RECURSE web_sources CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/web/src/*)
add_custom_command(
  OUTPUT ${FEWBIT_REPORT_INC}
  BYPRODUCTS ${CMAKE_SOURCE_DIR}/web/dist/report.html
  COMMAND ${CMAKE_SOURCE_DIR}/scripts/build-web --embed ${FEWBIT_REPORT_INC}
  DEPENDS ${web_sources} ${CMAKE_SOURCE_DIR}/scripts/build-web ${CMAKE_SOURCE_DIR}/web/embed.mjs
          ${CMAKE_SOURCE_DIR}/web/report.html ${CMAKE_SOURCE_DIR}/web/vite.config.ts
          ${CMAKE_SOURCE_DIR}/web/tsconfig.json ${CMAKE_SOURCE_DIR}/web/package.json
          ${CMAKE_SOURCE_DIR}/web/package-lock.json
  COMMENT "Bundling the report page"
  VERBATIM)
set_source_files_properties(${CMAKE_SOURCE_DIR}/src/fewbit/study/report_page.cc
                            PROPERTIES OBJECT_DEPENDS ${FEWBIT_REPORT_INC})
