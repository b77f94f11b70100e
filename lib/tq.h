// The public header of the tq library: everything that a user may call, in the order data flows. It is the manual; each
// header named here documents its functions with shapes, units, ranges and errors.
//
// Errors: every function throws tq::Error (could not be done) or tq::UsageError (a request that can never be met), with
// one line that says what, where, and what to do about it. After an Error no output has its name:
// what pack_weights() leaves for a later run ends in .tq-partial and .journal.
//
// Compress a captured cache, and prove what that cost:
//
//   const tq::KvDump dump = tq::KvDump::open("dump.safetensors");
//   const tq::KvPlan plan = tq::plan_kv(dump, {.k_bits = 4, .v_bits = 3});      // every byte is known from here on
//   const auto backend = tq::make_cpu_backend();
//   tq::pack_kv(dump, plan, *backend, "cache.tq3", {.threads = tq::default_threads()});
//
//   const tq::KvFile file = tq::KvFile::open("cache.tq3");                      // the header is sound from here on
//   const tq::VerifyReport report = tq::verify_packed(file, dump, {}, *backend);
//   if (report.verdict != tq::Verdict::kPass) ...
#pragma once

#include "lib/error.h"                   // Error, UsageError, ExitCode
#include "lib/solver/lloyd_max.h"        // solve_codebook: Lloyd-Max in double, certified
#include "lib/codebook.h"                // find_codebook, table_distortion, the theorems' bounds
#include "lib/scheme.h"                  // Scheme: what a decoder must know, as text
#include "lib/codec.h"                   // Codec: a scheme with its tables
#include "lib/backend.h"                 // Backend: encode, decode and compare rows
#include "lib/device.h"                  // open_device: the backend that --device names
#include "lib/io/kv_dump.h"              // KvDump: captured K, V and Q
#include "lib/cache/cache_scheme.h"      // CacheScheme: a Scheme with means, outlier channels, exact tokens, groups
#include "lib/cache/cache_codec.h"       // encode_head, decode_head: one head of K or V
#include "lib/cache/kv_options.h"        // KvSchemeOptions: what is asked, and the scheme of each head that follows
#include "lib/io/kv_file.h"              // KvFile: the .tq3 file
#include "lib/io/checkpoint.h"           // Checkpoint: a model's directory of safetensors
#include "lib/io/tq3_checkpoint.h"       // Tq3Checkpoint: native TQ3, what pack_weights writes
#include "lib/pack/plan_kv.h"            // plan_kv: every offset, before a byte is read
#include "lib/pack/pack_kv.h"            // pack_kv, unpack_kv
#include "lib/pack/import_kv.h"          // import_kv: raw dumps of other systems
#include "lib/pack/plan_weights.h"       // plan_weights: which weights are quantized, every offset
#include "lib/pack/pack_weights.h"       // pack_weights, merge_shards: a checkpoint to native TQ3
#include "lib/pack/weight_reader.h"      // WeightReader: tensors of plain and native TQ3 checkpoints as rows
#include "lib/pack/unpack_weights.h"     // unpack_weights: native TQ3 to an ordinary checkpoint
#include "lib/model/tokenizer.h"         // Tokenizer: text to token ids
#include "lib/model/text_input.h"        // read_text, read_token_ids
#include "lib/model/passage.h"           // default_passage: what a model reads if nothing is given
#include "lib/model/families.h"          // families: which models can be run
#include "lib/model/config.h"            // ModelConfig: config.json, decided
#include "lib/model/forward_device.h"    // ForwardDevice: what a GPU does of a forward pass
#include "lib/model/prefill.h"           // Model, prefill: the forward pass, with a hook for every layer's cache
#include "lib/model/prompt.h"            // read_prompt, read_windows: the tokens to run
#include "lib/model/generate.h"          // generate_greedily
#include "lib/model/capture.h"           // capture_kv: a KV dump of a model
#include "lib/measure/token_stats.h"     // compare_token, summarize_tokens: logits beside the reference's
#include "lib/cache/cache_hook.h"        // make_cache_hook: a forward pass that reads it
#include "lib/cache/cache_method.h"      // CacheMethod: a way to keep keys or values, seen from outside
#include "lib/cache/foreign_methods.h"   // make_foreign_cache: caches of other systems, simulated
#include "lib/verify/verify_kv.h"        // verify_dump, verify_packed, verify_synthetic
#include "lib/verify/model_effect.h"     // ModelEffect: one reference pass, many changes
#include "lib/verify/verify_model.h"     // verify_model: what compression costs a model's attention and output
#include "lib/verify/compare_schemes.h"  // compare_schemes: caches by name, side by side
#include "lib/verify/plan_bits.h"        // plan_bits: bits of each layer under a budget
#include "lib/verify/weight_gates.h"     // judge_weights
#include "lib/verify/verify_weights.h"   // verify_weights: a native TQ3 checkpoint against its model
#include "lib/verify/diff_tensors.h"     // diff_tensors: two checkpoints or files
#include "lib/verify/validate_paper.h"   // validate_paper: the theorems of arXiv 2504.19874, measured
#include "lib/verify/size_plan.h"        // plan_size: bytes of cache and weights from config.json alone
#include "lib/verify/report_json.h"      // the report as JSON
