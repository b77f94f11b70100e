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

/// What differs in size from what the run wrote or is gone, for a message: "model.safetensors has 1000 bytes, not 51136". Empty if
/// nothing does.
std::string find_damage(const std::string& dir, const std::vector<OutputSize>& files);

/// What differs in content, of files that are as large as they should be: "config.json is not what was written". Weights and
/// tq_config.json have hashes of their own.
std::string find_text_damage(const std::string& dir, const WeightPlan& plan, const std::string& source_dir);

/// Files in `dir` that are none of `files`: of an earlier model, or the user's. Sorted by name; directories do not count.
std::vector<std::string> list_strangers(const std::string& dir, const std::vector<OutputSize>& files);

/// The quant_method in the quantization_config of the source's config.json, "unnamed" where it has none; empty without a
/// quantization_config.
std::string find_quantization(const std::string& source_dir);

/// Puts the output in place once every item has a record: (with run.replace) removes an earlier result; companions,
/// tq_config.json, the weights, the index, config.json, in this order; then the `journals` go. Ended at any point, it can be
/// called again. Errors are those of reading and writing.
void finish_output(const std::string& dir, const WeightPlan& plan, const PackRun& run, const WeightRecords& records,
                   const std::vector<std::string>& journals);

}  // namespace tq
