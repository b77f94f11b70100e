// tq bench: how fast the codec runs here, beside a copy of the same bytes.
#include "lib/bench/bench.h"
#include "lib/bench/device_bench.h"

#include <fmt/format.h>
#include <sys/utsname.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <ctime>
#include <fstream>
#include <nlohmann/json.hpp>

#include "cli/command.h"
#include "cli/options.h"
#include "cli/table.h"
#include "cli/terminal.h"
#include "lib/device.h"
#include "lib/math/scale_search.h"

namespace tq::cli {
namespace {

using Json = nlohmann::ordered_json;

constexpr int kSchemaVersion = 1;
constexpr int kMostThreads = 1024;

struct Options {
  std::string operation = "all";
  CaseAxes axes = bench_axes();
  std::vector<int> threads;
  std::vector<std::string> norms;  ///< as given
  std::string target = "auto";
  std::string device = "cpu";
  std::uint64_t megabytes = 64;
  std::string weights;      ///< as given
  bool has_weights = false, has_dims = false, has_target = false;
  std::uint64_t bytes = 0;  ///< of a case: megabytes, or those of the weights
  int repeat = 7;
  bool json = false;
  bool quiet = false;
};

struct Report {
  std::string gpu;                ///< name and versions; empty for the CPU
  std::vector<CopyRate> copies;  ///< one for each number of threads; on a GPU one
  std::vector<BenchResult> results;

  /// CPU: the rate as a share of the copy by as many threads. GPU: all bytes that are read and written, a second, as a share of
  /// those of the copy.
  double share_of_copy(const BenchResult& result) const {
    if (!gpu.empty()) {
      return static_cast<double>(result.moved) / result.timing.median_us / (2e3 * copies.front().gb_per_s);
    }
    for (const CopyRate& copy : copies) {
      if (copy.threads == result.threads) return result.gb_per_s / copy.gb_per_s;
    }
    return std::nan("");
  }
};

std::vector<std::unique_ptr<Backend>> make_backends(const std::string& target) {
  std::vector<std::unique_ptr<Backend>> backends;
  if (target == "auto") {
    backends.push_back(make_cpu_backend());
  } else if (target == "all") {
    for (const std::string& name : cpu_targets()) backends.push_back(make_cpu_backend(name));
  } else {
    backends.push_back(make_cpu_backend(target));
  }
  return backends;
}

/// Compare is the same code whatever decoded the rows: it is measured beside the first backend
/// alone.
bool is_measured(const Case& item, std::size_t backend) {
  return backend == 0 || item.operation != Operation::kCompare;
}

/// "RxC": one case of that many BF16 weights, in groups of each dim.
void choose_weights(Options& options) {
  std::uint64_t sides[2] = {};
  const char* at = options.weights.data();
  const char* const end = at + options.weights.size();
  bool right = true;
  for (std::uint64_t& side : sides) {
    const auto [next, error] = std::from_chars(at, end, side);
    right &= error == std::errc() && side >= 1 && side <= 1000000;
    at = next;
    if (&side == sides) right &= at != end && *at++ == 'x';
  }
  const std::uint64_t bytes = 2 * sides[0] * sides[1];
  if (!right || at != end || bytes > std::uint64_t{16384} * 1000000) {
    throw UsageError(fmt::format("--weights: '{}' is not ROWSxCOLUMNS of at most 16384 MB, such as 14336x4096", options.weights));
  }
  options.bytes = bytes;
  options.axes.tq3 = true;
  if (!options.has_dims) options.axes.dims = {128};
  for (const int dim : options.axes.dims) {
    if ((dim != 64 && dim != 128 && dim != 256) || sides[1] % static_cast<std::uint64_t>(dim) != 0) {
      throw UsageError(fmt::format("--weights {}: groups have 64, 128 or 256 values, of which a row holds whole ones; --dim {} does not",
                                   options.weights, dim));
    }
  }
  for (const int bits : options.axes.bits) {
    if (bits < 2 || bits > 4) throw UsageError(fmt::format("--weights: native TQ3 has 2 to 4 bits, and --bits is {}", bits));
  }
}

Report measure_device(const Options& options, const DeviceChoice& device) {
  const auto bench = make_device_bench(device.number);
  const std::vector<Case> cases = list_cases(options.axes);
  const std::uint64_t bytes = options.bytes;
  ProgressBar bar("bench", (cases.size() + 1) * bytes, ProgressBar::Unit::kBytes, options.quiet);
  const Progress progress = bar.callback();
  Report report;
  report.gpu = fmt::format("{}, {}", bench->name(), bench->versions());
  report.copies.push_back(bench->measure_copy(bytes, options.repeat));
  progress(bytes);
  std::vector<std::uint8_t> rows;
  int dim = 0;
  for (const Case& item : cases) {
    if (item.dim != dim) {
      dim = item.dim;
      const std::uint64_t row_bytes = static_cast<std::uint64_t>(dim) * size_of(item.dtype);
      rows = make_bench_rows(item.dtype, dim, static_cast<std::int64_t>(bytes / row_bytes));
    }
    report.results.push_back(bench->run_case(item, rows, options.repeat));
    progress(bytes);
  }
  return report;
}

Report measure(const Options& options) {
  const auto backends = make_backends(options.target);
  const std::vector<Case> cases = list_cases(options.axes);
  const std::uint64_t bytes = options.bytes;
  std::uint64_t runs = options.threads.size();  // the copies
  for (const Case& item : cases) {
    for (std::size_t b = 0; b < backends.size(); ++b) {
      if (is_measured(item, b)) runs += options.threads.size();
    }
  }
  ProgressBar bar("bench", runs * bytes, ProgressBar::Unit::kBytes, options.quiet);
  const Progress progress = bar.callback();
  Report report;
  for (const int threads : options.threads) {
    report.copies.push_back(measure_copy(bytes, threads, options.repeat));
    progress(bytes);
  }
  std::vector<std::uint8_t> rows;
  int dim = 0;
  for (const Case& item : cases) {
    if (item.dim != dim) {
      dim = item.dim;
      const std::uint64_t row_bytes = static_cast<std::uint64_t>(dim) * size_of(item.dtype);
      rows = make_bench_rows(item.dtype, dim, static_cast<std::int64_t>(bytes / row_bytes));
    }
    for (std::size_t b = 0; b < backends.size(); ++b) {
      if (!is_measured(item, b)) continue;
      for (const int threads : options.threads) {
        report.results.push_back(run_case(item, rows, *backends[b], threads, options.repeat));
        progress(bytes);
      }
    }
  }
  return report;
}

std::string format_table(const Report& report, const Options& options) {
  std::string text = fmt::format("{} of {} a case; GB/s of these bytes, median of {} runs\n", format_bytes(options.bytes),
                                 !options.has_weights ? "BF16 rows" : options.weights + " BF16 weights as native TQ3",
                                 options.repeat);
  if (!report.gpu.empty()) {
    text += fmt::format("{}\ncopy in device memory: {:.1f} GB/s read and as much written\n", report.gpu,
                        report.copies.front().gb_per_s);
  }
  for (const CopyRate& copy : report.copies) {
    if (!report.gpu.empty()) break;
    text += fmt::format("memcpy of as many bytes, {} thread{}: {:.2f} GB/s\n", copy.threads,
                        copy.threads == 1 ? "" : "s", copy.gb_per_s);
  }
  Table table({"op", "dim", "bits", "norm", "effort", "target", "threads", "GB/s", report.gpu.empty() ? "of memcpy" : "of copy",
               "median us", "min us", "rel.MSE", "hash"});
  for (const BenchResult& r : report.results) {
    std::vector<std::string> cells = {std::string(name_of(r.item.operation)),
                                      std::to_string(r.item.dim), std::to_string(r.item.bits),
                                      std::string(name_of(r.item.norm)), std::to_string(r.item.effort), r.target, std::to_string(r.threads)};
    if (r.failure.empty()) {
      cells.insert(
          cells.end(),
          {fmt::format("{:.3f}", r.gb_per_s), fmt::format("{:.3f}", report.share_of_copy(r)),
           fmt::format("{:.1f}", r.timing.median_us), fmt::format("{:.1f}", r.timing.min_us),
           fmt::format("{:.5f}", r.relative_mse), fmt::format("{:016x}", r.hash)});
    } else {
      cells.insert(cells.end(), {"-", "-", "-", "-", "-", "wrong result"});
    }
    table.add(std::move(cells));
  }
  return text + "\n" + table.format();
}

/// The processor's name, or at least its architecture.
std::string describe_cpu() {
  std::ifstream info("/proc/cpuinfo");
  for (std::string line; std::getline(info, line);) {
    const std::size_t colon = line.find(": ");
    if (line.starts_with("model name") && colon != std::string::npos) return line.substr(colon + 2);
  }
  utsname system{};
  return uname(&system) == 0 ? system.machine : "unknown";
}

/// Now, as "2025-04-28T12:00:00Z".
std::string format_date() {
  const std::time_t now = std::time(nullptr);
  std::tm utc{};
  gmtime_r(&now, &utc);
  char text[32];
  return {text, std::strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%SZ", &utc)};
}

Json case_json(const BenchResult& r, const char* share, double share_of_copy) {
  const bool timed = r.failure.empty();
  const auto if_timed = [&](auto value) { return timed ? Json(value) : Json(nullptr); };
  return {{"op", name_of(r.item.operation)},
          {"dim", r.item.dim},
          {"bits", r.item.bits},
          {"norm", name_of(r.item.norm)},
          {"dtype", name_of(r.item.dtype)},
          {"effort", r.item.effort},
          {"codebook", scheme_of(r.item).codebook},
          {"target", r.target},
          {"threads", r.threads},
          {"rows", r.rows},
          {"bytes", r.bytes},
          {"bytes_moved", r.moved},
          {"relative_mse", std::isfinite(r.relative_mse) ? Json(r.relative_mse) : Json(nullptr)},
          {"expected_mse", r.expected_mse},
          {"gb_per_s", if_timed(r.gb_per_s)},
          {share, if_timed(share_of_copy)},
          {"median_us", if_timed(r.timing.median_us)},
          {"min_us", if_timed(r.timing.min_us)},
          {"hash", if_timed(fmt::format("{:016x}", r.hash))},
          {"failure", timed ? Json(nullptr) : Json(r.failure)}};
}

std::string format_json(const Report& report, const Options& options) {
  Json json;
  json["schema_version"] = kSchemaVersion;
  json["tq"] = TQ_VERSION;
  json["machine"] = {{"cpu", describe_cpu()}, {"threads", default_threads()}};
  if (!report.gpu.empty()) json["machine"]["gpu"] = report.gpu;
  json["date"] = format_date();
  json["repeat"] = options.repeat;
  const char* const copy_key = report.gpu.empty() ? "memcpy" : "device_copy";
  json[copy_key] = Json::array();
  for (const CopyRate& copy : report.copies) {
    json[copy_key].push_back({{"threads", copy.threads},
                              {"bytes", copy.bytes},
                              {"gb_per_s", copy.gb_per_s},
                              {"median_us", copy.timing.median_us},
                              {"min_us", copy.timing.min_us}});
  }
  json["cases"] = Json::array();
  for (const BenchResult& r : report.results)
    json["cases"].push_back(case_json(r, report.gpu.empty() ? "of_memcpy" : "of_copy", report.share_of_copy(r)));
  return json.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

ExitCode run(Options options) {
  options.bytes = options.megabytes * 1000000;
  if (options.has_weights) choose_weights(options);
  for (const Operation operation : bench_axes().operations) {
    if (options.operation == name_of(operation)) options.axes.operations = {operation};
  }
  const DeviceChoice device = parse_device(options.device);
  if (device.kind == DeviceKind::kAuto) throw UsageError("--device auto: say what to measure: cpu, cuda or cuda:N");
  if (device.kind == DeviceKind::kCuda) {
    const char* name = !options.threads.empty() ? "--threads" : options.has_target ? "--target" : nullptr;
    if (name != nullptr) throw UsageError(fmt::format("{} is of the CPU: leave it out with --device {}", name, options.device));
  }
  if (options.threads.empty()) options.threads = {1, default_threads()};
  std::sort(options.threads.begin(), options.threads.end());
  options.threads.erase(std::unique(options.threads.begin(), options.threads.end()),
                        options.threads.end());
  options.axes.norms.clear();
  for (const std::string& norm : options.norms) options.axes.norms.push_back(parse_norm_mode(norm));
  const bool searches = std::any_of(options.axes.efforts.begin(), options.axes.efforts.end(), [](int e) { return e > 0; });
  if (searches && !options.norms.empty() && options.norms != std::vector<std::string>{"least-squares"}) {
    throw UsageError("--effort 1 to 3 has least-squares norms: leave --norm out, or give --norm least-squares");
  }
  if (options.norms.empty()) options.axes.norms = {options.has_weights ? NormMode::kCorrected : NormMode::kRaw};
  const Report report = device.kind == DeviceKind::kCpu ? measure(options) : measure_device(options, device);
  fmt::print("{}", options.json ? format_json(report, options) : format_table(report, options));
  ExitCode code = ExitCode::kDone;
  for (const BenchResult& r : report.results) {
    if (r.failure.empty()) continue;
    code = ExitCode::kCouldNot;
    fmt::print(stderr, "tq: not timed: {} ({}, {} threads): {}\n", describe(r.item), r.target,
               r.threads, r.failure);
  }
  return code;
}

}  // namespace

void add_bench(CLI::App& app, Command& command) {
  auto options = std::make_shared<Options>();
  CLI::App* sub = app.add_subcommand(
      "bench", "time the codec on this machine, beside a copy of the same bytes");
  sub->footer(
      "Examples: tq bench --dim 128 --threads 1\n"
      "          tq bench --op encode --dim 128 --bits 3,4 --target all --threads 1 --json\n"
      "          tq bench --op encode --dim 128 --bits 3,4 --effort 0,1,2,3 --threads 1\n"
      "          tq bench --op encode --bits 3 --weights 14336x4096 --device cuda\n"
      "Rates are of the BF16 rows: input of encode, output of decode, one side of compare. Each "
      "result is checked "
      "before it is\ntimed: relative MSE within 2 % of the codebook's D, a sample of rows equal to "
      "the scalar "
      "target's. Exit code 3 if a check fails.");
  const auto add_list = [&](const char* name, std::vector<int>& values, const char* help, int low,
                            int high) {
    return sub->add_option(name, values, help)
        ->delimiter(',')
        ->allow_extra_args(false)
        ->check(CLI::Range(low, high));
  };
  sub->add_option("--op", options->operation,
                  "encode, decode, compare (error statistics of rows and their "
                  "reconstruction) or all")
      ->check(CLI::IsMember({"encode", "decode", "compare", "all"}));
  CLI::Option* dims =
      add_list("--dim", options->axes.dims, "elements of a row, 8..1024, a list", kMinDim, kMaxRowDim);
  add_list("--bits", options->axes.bits, "bits of a code, 1..8, a list", kMinBits, kMaxBits);
  add_list("--effort", options->axes.efforts,
           "effort of encode, 0..3, a list: 0 takes the nearest levels, 1..3 search the scale of "
           "each row",
           0, math::kMaxEffort);
  add_list("--threads", options->threads,
           "threads, 1..1024, a list; default: 1 and all that the machine runs at once", 1,
           kMostThreads)
      ->default_str("");
  CLI::Option* target = sub->add_option(
      "--target", options->target, "CPU target; auto: the widest, or what TQ_CPU names; all: each in turn");
  target->check(CLI::IsMember({"scalar", "simd128", "avx2", "avx512", "auto", "all"}));
  sub->add_option("--norm", options->norms, "raw (default), corrected, least-squares, a list; --effort 1 to 3 has least-squares")
      ->delimiter(',')
      ->allow_extra_args(false)
      ->check(CLI::IsMember({"raw", "corrected", "least-squares"}));
  sub->add_option("--device", options->device,
                  "cpu, cuda or cuda:N; on a GPU rows lie in its memory, and times are of its kernels alone")
      ->check(device_name());
  sub->add_option("--mb", options->megabytes,
                  "BF16 rows of a case, 1..16384 MB; more than the caches hold shows memory")
      ->check(CLI::Range(1, 16384));
  CLI::Option* weights = sub->add_option(
      "--weights", options->weights,
      "ROWSxCOLUMNS: in place of --mb, that many BF16 weights as pack-weights codes them, in groups of --dim 64, 128 "
      "(default) or 256 values, 2 to 4 bits, corrected norms unless --norm says another");
  sub->add_option("--repeat", options->repeat, "timed runs of a case, 1..1000; one more warms up")
      ->check(CLI::Range(1, 1000));
  sub->add_flag("--json", options->json, "print JSON");
  sub->add_flag("--quiet", options->quiet, "no progress on stderr");
  sub->callback([options, dims, weights, target, &command] {
    options->has_dims = dims->count() > 0;
    options->has_weights = weights->count() > 0;
    options->has_target = target->count() > 0;
    command = [options] { return run(*options); };
  });
}

}  // namespace tq::cli
