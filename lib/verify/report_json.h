// The report as JSON: a superset of the fields that the published verify command prints, with a schema in
// docs/verify.schema.json.
#pragma once

#include <string>

#include "lib/verify/report.h"

namespace tq {

inline constexpr int kVerifySchemaVersion = 3;

/// `exit_code` is what the process returns. Numbers that were not measured (NaN, infinity) are null.
std::string format_report_json(const VerifyReport& report, int exit_code);

/// The object that stands for a report where nothing could be measured (docs/verify-error.schema.json); `numbers` where the
/// model was run and reads badly.
std::string format_error_json(const std::string& error, const ModelNumbers* numbers);

}  // namespace tq
