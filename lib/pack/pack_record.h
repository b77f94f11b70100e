// What a run of pack-weights writes down so that it can be continued: what it was asked for and from what (the
// fingerprint), and each tensor that is finished and on disk.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "lib/io/journal.h"
#include "lib/pack/plan_weights.h"
#include "lib/pack/weight_check.h"

namespace tq {

/// A tensor that is finished.
struct WeightRecord {
  std::string data_hash;   ///< XXH64 of the codes, or of the tensor as it is kept; 16 hex digits
  std::string norms_hash;  ///< of a quantized tensor
  std::string source_hash; ///< SourceHash of the tensor that it was made from
  WeightStats stats;       ///< of a quantized tensor
  F16Losses losses;        ///< of a tensor that is kept as F16
};

/// A run: the first line of its journal.
struct PackRun {
  std::string model;        ///< as it was given: a directory or a hub id
  std::string source_dir;   ///< absolute
  WeightOptions options;
  int part = 1;             ///< of options.parts
  bool replace = false;     ///< an earlier result in the output directory gives way at the end (--force)
  std::string fingerprint;  ///< JSON text: options, version of tq, and name, size, time and header hash of each source file
};

/// Files beside the weights that belong to a model and are copied: tokenizer, generation settings, templates, code, licence.
/// Names only, sorted; files at the top of the directory with the extensions that docs/weights.md lists.
std::vector<std::string> list_companions(const std::string& dir);

/// The fingerprint as PackRun has it. Error for a file that cannot be examined.
std::string make_fingerprint(const Checkpoint& source, const WeightOptions& options);
/// What tq_config.json says of it: all but the times and the number of parts, which change no tensor.
std::string portable_fingerprint(const std::string& fingerprint);
/// What it says of all that decides a tensor: without the files beside the weights.
std::string weights_fingerprint(const std::string& fingerprint);
/// 16 hex digits, of the portable one.
std::string hash_fingerprint(const std::string& fingerprint);

/// What differs first between two fingerprints.
struct Difference {
  std::string what;    ///< "option --bits", "source file model.safetensors: its size", "version of tq"
  std::string before;  ///< JSON text; empty where there was none
  std::string now;     ///< JSON text; empty where there is none

  /// "option --bits was 3 and is 4".
  std::string describe() const;
};
std::optional<Difference> find_difference(const std::string& before, const std::string& now);
/// Throws Error that names what differs.
void compare_fingerprints(const std::string& before, const std::string& now, const std::string& where);

/// "tq-pack.journal", or "tq-pack-00002-of-00004.journal" for a part.
std::string journal_name(int part, int parts);
/// Part and parts of such a name; nothing for any other name.
struct PartName {
  int part;
  int parts;
};
std::optional<PartName> parse_journal_name(const std::string& name);

std::string format_run(const PackRun& run);
PackRun parse_run(const std::string& line, const std::string& where);

/// The line of a finished item.
std::string format_record(const WeightItem& item, const WeightRecord& record);

using WeightRecords = std::vector<std::optional<WeightRecord>>;  ///< records[i] belongs to plan.items[i]

/// The line that takes back the record of an item: its file is gone.
std::string format_loss(const WeightItem& item);

/// Adds the records of a journal's lines, the first left out. Error for a line that does not fit the plan.
void parse_records(const std::vector<std::string>& lines, const WeightPlan& plan, WeightRecords& records,
                   const std::string& where);

}  // namespace tq
