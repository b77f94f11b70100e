// The report of verify as text for people.
#pragma once

#include <string>

#include "lib/verify/report.h"

namespace tq::cli {

/// Tables of codec and attention metrics per layer (per head if asked), the gates with their controls, and the verdict.
std::string format_report_table(const VerifyReport& report, bool per_head);

}  // namespace tq::cli
