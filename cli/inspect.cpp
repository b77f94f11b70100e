// tq inspect: what is in a .tq3 file, a KV dump or a checkpoint, to the byte.
#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>

#include "cli/command.h"
#include "cli/inspect_weights.h"
#include "cli/options.h"
#include "cli/table.h"
#include "cli/terminal.h"
#include "lib/io/checkpoint.h"
#include "lib/io/kv_dump.h"
#include "lib/io/kv_file.h"

namespace tq::cli {
namespace {

using Json = nlohmann::ordered_json;

struct Options {
  std::string input;
  bool json = false;
  ThreadOption threads;
};

/// What is known of K or V of a layer, whatever the file.
struct Row {
  int layer;
  std::string part;             ///< "k", "k h3"
  std::string name;             ///< "k.0", "k.0.h3"
  std::int64_t heads, tokens;
  int dim;
  std::string type;             ///< of the values of a dump, or the bits of a code
  std::string scheme;           ///< empty for a dump
  std::uint64_t row_bytes;      ///< exact bytes of one coded token of one head
  std::uint64_t bytes;
  std::map<std::string, std::string> hashes;

  double bits_per_value() const { return 8.0 * static_cast<double>(row_bytes) / dim; }
};

Json row_json(const Row& row) {
  Json json = {{"layer", row.layer},
               {"part", row.part},
               {"shape", {row.heads, row.tokens, row.dim}},
               {"scheme", row.scheme.empty() ? row.type : row.scheme},
               {"bytes_per_token_and_head", row.row_bytes},
               {"bits_per_value", row.bits_per_value()},
               {"bytes", row.bytes}};
  if (!row.hashes.empty()) json["xxh64"] = row.hashes;
  return json;
}

void print_rows(const std::vector<Row>& rows) {
  Table table({"layer", "part", "heads", "tokens", "dim", "type", "bytes/token/head", "bits/value", "bytes"});
  for (const Row& row : rows) {
    table.add({std::to_string(row.layer), row.part, std::to_string(row.heads), std::to_string(row.tokens),
               std::to_string(row.dim), row.type, std::to_string(row.row_bytes), fmt::format("{:.3f}", row.bits_per_value()),
               format_count(row.bytes)});
  }
  fmt::print("{}", table.format());
}

Row make_row(const KvFile& file, int layer, const PackedTensor& t, const PackedHeads& part) {
  const CacheScheme& scheme = part.scheme;
  const std::string place = part.heads == t.heads ? t.name.substr(0, 1) : fmt::format("{} h{}", t.name.substr(0, 1), part.first_head);
  Row row{layer, place, part.name, part.heads, t.tokens, t.dim, fmt::format("{:.4g} bit", scheme.average_bits()), format_cache_scheme(scheme),
          static_cast<std::uint64_t>(scheme.row_bytes()), part.bytes(), {}};
  for (const TensorInfo* tensor : part.streams) row.hashes[tensor->name] = file.file().metadata().at(hash_key(tensor->name));
  return row;
}

/// The tables that travel in the file: levels, factors of rotations, sketch matrices.
std::vector<const TensorInfo*> find_tables(const KvFile& file) {
  std::vector<const TensorInfo*> tables;
  for (const TensorInfo& tensor : file.file().tensors()) {
    const bool is_table = tensor.name.starts_with("codebook.") || tensor.name.starts_with("rotation.") || tensor.name.starts_with("qjl.");
    if (is_table) tables.push_back(&tensor);
  }
  return tables;
}

ExitCode inspect_packed(const Options& options) {
  const KvFile file = KvFile::open(options.input);
  file.check_payload(options.threads.threads);
  std::vector<Row> rows;
  std::uint64_t coded = 0;
  std::uint64_t source = 0;
  for (const PackedLayer& layer : file.layers()) {
    for (const PackedTensor* t : {&layer.k, &layer.v}) {
      for (const PackedHeads& part : t->parts) rows.push_back(make_row(file, layer.index, *t, part));
      coded += t->bytes();
      source += static_cast<std::uint64_t>(t->rows()) * static_cast<std::uint64_t>(t->dim) * size_of(t->source.dtype);
    }
  }
  const std::uint64_t total = file.file().file().size();
  const std::string& header_hash = file.file().metadata().at(std::string(kHeaderHashKey));
  if (options.json) {
    Json json = {{"file", options.input}, {"kind", "tq3-kv"}, {"format_version", std::string(kKvFormatVersion)},
                 {"header_xxh64", header_hash}, {"hashes", "ok"}, {"bytes", total},
                 {"overhead_bytes", total - coded}, {"source_bytes", source},
                 {"compression", static_cast<double>(source) / static_cast<double>(total)}, {"tensors", Json::array()},
                 {"tables", Json::array()}, {"dump_metadata", file.dump_metadata()}};
    for (const Row& row : rows) json["tensors"].push_back(row_json(row));
    for (const TensorInfo* table : find_tables(file)) {
      json["tables"].push_back({{"name", table->name}, {"shape", table->shape}, {"bytes", table->bytes},
                                {"xxh64", file.file().metadata().at(hash_key(table->name))}});
    }
    fmt::print("{}\n", json.dump(2, ' ', false, Json::error_handler_t::replace));
    return ExitCode::kDone;
  }
  fmt::print("{}: .tq3 KV file, format version {}, {} layers\n\n", options.input, kKvFormatVersion, file.layers().size());
  print_rows(rows);
  fmt::print("\nschemes\n");
  std::map<std::string, std::string> users;
  for (const Row& row : rows) users[row.scheme] += " " + row.name;
  for (const auto& [scheme, names] : users) fmt::print("  {}\n   {}\n", scheme, names);
  fmt::print("\ntables\n");
  for (const TensorInfo* table : find_tables(file)) {
    fmt::print("  {}  F32 [{}], {} bytes\n", table->name, fmt::join(table->shape, ", "), format_count(table->bytes));
  }
  fmt::print("\nhashes (XXH64, all checked)\n  header  {}\n", header_hash);
  for (const Row& row : rows) {
    for (const auto& [name, hash] : row.hashes) fmt::print("  {}  {}\n", name, hash);
  }
  fmt::print("\n{} bytes: {} of codes and norms, {} of header and tables; the source had {} ({:.2f}x)\n", format_count(total),
             format_count(coded), format_count(total - coded), format_count(source),
             static_cast<double>(source) / static_cast<double>(total));
  return ExitCode::kDone;
}

ExitCode inspect_dump(const Options& options) {
  const KvDump dump = KvDump::open(options.input);
  std::vector<Row> rows;
  const auto add = [&](int layer, const char* part, const KvTensor& t) {
    rows.push_back({layer, part, t.info.name, t.heads, t.tokens, t.head_dim, std::string(name_of(t.info.dtype)), "",
                    static_cast<std::uint64_t>(t.head_dim) * size_of(t.info.dtype), t.info.bytes, {}});
  };
  for (const KvLayer& layer : dump.layers()) {
    add(layer.index, "k", layer.k);
    add(layer.index, "v", layer.v);
    if (layer.q) add(layer.index, "q", *layer.q);
  }
  if (options.json) {
    Json json = {{"file", options.input}, {"kind", "kv-dump"}, {"bytes", dump.file().file().size()},
                 {"tensors", Json::array()}, {"dump_metadata", dump.metadata()}};
    for (const Row& row : rows) json["tensors"].push_back(row_json(row));
    fmt::print("{}\n", json.dump(2, ' ', false, Json::error_handler_t::replace));
    return ExitCode::kDone;
  }
  fmt::print("{}: KV dump, {} layers\n\n", options.input, dump.layers().size());
  print_rows(rows);
  if (!dump.metadata().empty()) fmt::print("\nmetadata\n");
  for (const auto& [key, value] : dump.metadata()) fmt::print("  {}  {}\n", quote_name(key), quote_name(value));
  return ExitCode::kDone;
}

/// True if any tensor is named like those of a KV dump: the dump's own reader then says what is wrong with it.
bool looks_like_dump(const SafetensorsFile& file) {
  const auto is_kv_name = [](const TensorInfo& tensor) {  // a wrong one, too, such as k.-1: then the dump says what is wrong
    const std::string& name = tensor.name;
    if (name.size() > 2 && name[1] == '.' && (name[0] == 'k' || name[0] == 'v' || name[0] == 'q')) {
      return name[2] == '-' || (name[2] >= '0' && name[2] <= '9');
    }
    return name.starts_with("layers.") && (name.ends_with(".key") || name.ends_with(".value") || name.ends_with(".query"));
  };
  return file.tensors().empty() || std::any_of(file.tensors().begin(), file.tensors().end(), is_kv_name);
}

ExitCode run(const Options& options) {
  std::error_code ignored;
  if (std::filesystem::is_directory(options.input, ignored)) {
    return inspect_weights(options.input, false, options.threads.threads, options.json);
  }
  const bool named_as_file = options.input.ends_with(".tq3") || options.input.ends_with(".safetensors");
  const bool is_org_name = is_hub_id(options.input) && options.input.find('/') != std::string::npos;
  if (is_org_name && !named_as_file && !std::filesystem::exists(options.input, ignored)) {
    return inspect_weights(find_model_dir(options.input), false, options.threads.threads, options.json);
  }
  const SafetensorsFile file = SafetensorsFile::open(options.input);
  if (KvFile::claims(file)) return inspect_packed(options);
  if (looks_like_dump(file)) return inspect_dump(options);
  return inspect_weights(options.input, true, options.threads.threads, options.json);
}

}  // namespace

void add_inspect(CLI::App& app, Command& command) {
  auto options = std::make_shared<Options>();
  CLI::App* sub = app.add_subcommand("inspect", "show what is in a .tq3 file, a KV dump, a checkpoint or any safetensors file, and check its hashes");
  sub->footer("Examples: tq inspect cache.tq3\n          tq inspect ./model-tq3");
  sub->add_option("FILE", options->input, "a .tq3 KV file, a KV dump, a checkpoint's directory (plain or native TQ3) or its id in the local Hugging Face cache, or any safetensors file")->required();
  sub->add_flag("--json", options->json, "print JSON");
  options->threads.declare(*sub);
  sub->callback([options, &command] { command = [options] { return run(*options); }; });
}

}  // namespace tq::cli
