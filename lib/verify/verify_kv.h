// verify: what to measure, and what the numbers mean.
#pragma once

#include <string>

#include "lib/pack/plan_kv.h"
#include "lib/verify/gates.h"
#include "lib/verify/measure_kv.h"

namespace tq {

struct VerifyOptions {
  KvSchemeOptions scheme;
  GateOptions gates;
  MeasureOptions measure;
};

/// Compresses the dump in memory and compares. Error: attention gates without queries in the dump, and those of reading.
VerifyReport verify_dump(const KvDump& dump, const VerifyOptions& options, const Backend& backend);

/// Compares what is really in a file with the dump that it was made from; the scheme options are the file's. Error: the
/// two differ in layers, heads, tokens or dims.
VerifyReport verify_packed(const KvFile& packed, const KvDump& dump, const VerifyOptions& options,
                           const Backend& backend);

/// Rows from anywhere: measures, judges and warns. The caller names the source in the report. Error: attention gates where
/// a layer has no queries, and those of reading.
VerifyReport verify_source(const KvSource& source, const VerifyOptions& options, const Backend& backend);

/// Adds advice to a report with failed gates: what would help the heads whose keys are hardest to code, from their own rows.
void advise_on_keys(VerifyReport& report);

/// Gaussian rows: says something of the codec, and nothing of any model. Gates the ratio to D at 1.1 unless told.
VerifyReport verify_synthetic(const SyntheticShape& shape, const VerifyOptions& options, const Backend& backend);

}  // namespace tq
