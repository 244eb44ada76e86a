// The page behind `fewbit report`: one self-contained HTML file with the study's data inside.
//
// The page itself is written in web/ and embedded when fewbit is built; docs/formats/report-data.md
// defines the data. It draws the fitted laws, predicts, and asks the network for nothing.
#pragma once

#include <string>

#include "fewbit/base/json.h"

namespace fewbit {

// Version of the data's format that the embedded page reads.
inline constexpr int kReportSchema = 1;

// Checks `data` against the format, as far as a mistake would make the page show something wrong:
// required keys and their types, parameters and draws of equal length, points that name existing
// rows. The Error names the place ("fits[2]: draws[0] has 3 values, params has 4").
void check_report_data(const Json& data);

// The page as UTF-8 HTML. Numbers that are not finite become null, bytes that are not UTF-8 become
// U+FFFD (a file name may hold any byte). Error as check_report_data().
std::string render_report(const Json& data);

}  // namespace fewbit
