// render_report DATA.json REPORT.html: the page of one data document, for the browser test.
#include <cstdio>
#include <exception>

#include "fewbit/base/file.h"
#include "fewbit/base/json.h"
#include "fewbit/study/report_page.h"

int main(int argc, char** argv) {
  if (argc != 3) {
    std::fprintf(stderr, "usage: %s DATA.json REPORT.html\n", argv[0]);
    return 2;
  }
  try {
    const fewbit::Json data = fewbit::parse_json(fewbit::read_text_file(argv[1]), argv[1]);
    fewbit::write_file_atomically(argv[2], fewbit::render_report(data));
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
  return 0;
}
