// The end of packing: files beside the weights, and everything put in place in an order in which no loader takes a part for
// the whole.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "lib/pack/pack_record.h"

namespace tq {

/// config.json of the output: the source's without "quantization_config", byte for byte where it has none. Nothing if the
/// source has none. Error if it is no JSON object.
std::optional<std::string> make_model_config(const std::string& source_dir);

/// model.safetensors.index.json; nothing where there is one file only.
std::optional<std::string> make_index(const WeightPlan& plan);

/// tq_config.json. Items without a record get zeros for hashes: the text is as long as it will be.
std::string make_tq3_config(const WeightPlan& plan, const PackRun& run, const WeightRecords& records);

struct OutputSize {
  std::string name;
  std::uint64_t bytes;
};
/// Every file that the output will consist of, and its exact size; of one part of several, the files of weights that it writes.
std::vector<OutputSize> list_output(const Checkpoint& source, const WeightPlan& plan, const PackRun& run);

/// Deletes weights in the making, of whatever run.
void remove_partial_files(const std::string& dir);

/// True if the output of this very run is in place, whole: what finish_output() does has been done, but for the journals.
bool is_in_place(const std::string& dir, const WeightPlan& plan, const PackRun& run);

/// Puts the output in place once every item has a record: (with run.replace) removes an earlier result; companions,
/// tq_config.json, the weights, the index, config.json, in this order; then the `journals` go. Ended at any point, it can be
/// called again. Errors are those of reading and writing.
void finish_output(const std::string& dir, const WeightPlan& plan, const PackRun& run, const WeightRecords& records,
                   const std::vector<std::string>& journals);

}  // namespace tq
