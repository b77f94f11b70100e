// The pipeline of model weights in one process: files that do not stay as they were, before, while and after they are packed, and rows
// that end in padding.
#include <doctest/doctest.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>

#include <algorithm>

#include "lib/pack/pack_weights.h"
#include "tests/codec_helpers.h"
#include "tests/io_helpers.h"

namespace tq {
namespace {

using test::check_contains;
using test::error_of;
using test::get_file;
using test::Scratch;

namespace fs = std::filesystem;

using OnProgress = std::function<void(const WeightItem&)>;

/// Packs `model` into `out` with one thread, so that blocks follow each other.
PackWeightsResult pack(const std::string& model, const std::string& out, bool resume, const OnProgress& on_progress = nullptr) {
  const Checkpoint source = Checkpoint::open(model);
  const WeightOptions weights;
  const WeightPlan plan = plan_weights(source, weights);
  const PackRun run{model, model, weights, 1, false, make_fingerprint(source, weights)};
  PackWeightsOptions options;
  options.resume = resume;
  if (on_progress) options.progress = [&](const WeightItem& item, std::uint64_t, std::uint64_t) { on_progress(item); };
  return pack_weights(source, plan, *make_cpu_backend(), out, run, options);
}

struct Matrix {
  std::int64_t rows, columns;
};

/// A model of Gaussian F32 matrices "layers.I.up_proj.weight"; returns their values.
std::vector<std::vector<float>> write_model(const std::string& dir, const std::vector<Matrix>& matrices) {
  std::string header, data;
  std::vector<std::vector<float>> values;
  for (const auto& [rows, columns] : matrices) {
    const std::size_t i = values.size();
    values.push_back(test::gaussian_rows(static_cast<std::uint32_t>(i) + 1, rows, static_cast<int>(columns)));
    const std::size_t bytes = values.back().size() * sizeof(float);
    header += fmt::format("{}\"layers.{}.up_proj.weight\":{{\"dtype\":\"F32\",\"shape\":[{},{}],\"data_offsets\":[{},{}]}}",
                          i == 0 ? "{" : ",", i, rows, columns, data.size(), data.size() + bytes);
    data.append(reinterpret_cast<const char*>(values.back().data()), bytes);
  }
  header += "}";
  header.resize((header.size() + 7) / 8 * 8, ' ');
  const std::uint64_t length = header.size();
  fs::create_directory(dir);
  test::put_file(dir + "/model.safetensors", std::string(reinterpret_cast<const char*>(&length), sizeof(length)) + header + data);
  test::put_file(dir + "/config.json", "{}");
  return values;
}

struct Model {
  Scratch scratch;
  std::string dir = scratch / "model";
  std::string weights = dir + "/model.safetensors";
  Model() { fs::copy(std::string(TQ_TESTS_DIR) + "/weights/llama", dir); }
};

timespec time_of(const std::string& path) {
  struct stat status {};
  REQUIRE(::stat(path.c_str(), &status) == 0);
  return status.st_mtim;
}

void set_time(const std::string& path, timespec written) {
  const timespec times[2] = {written, written};
  REQUIRE(::utimensat(AT_FDCWD, path.c_str(), times, 0) == 0);
}

TEST_CASE("a source that is written to while it is packed ends the run, and what is there looks like no model") {
  const Model model;
  const std::string out = model.scratch / "out";
  const std::string before = get_file(model.weights);
  const timespec written = time_of(model.weights);
  int blocks = 0;
  const std::string error = error_of([&] {
    pack(model.dir, out, false, [&](const WeightItem&) {
      if (++blocks != 2) return;
      std::string other = before;
      other.back() = static_cast<char>(other.back() ^ 1);  // one bit of the last tensor
      test::put_file(model.weights, other);
      set_time(model.weights, {written.tv_sec, written.tv_nsec + (written.tv_nsec < 999'999'999 ? 1 : -1)});
    });
  });
  check_contains(error, model.weights + ": was written to while tq read it");
  CHECK(blocks == 2);
  CHECK_FALSE(fs::exists(out + "/config.json"));
  CHECK_FALSE(fs::exists(out + "/model.safetensors"));

  check_contains(error_of([&] { pack(model.dir, out, true); }), "model.safetensors: its time");
  test::put_file(model.weights, before);
  set_time(model.weights, written);
  CHECK(pack(model.dir, out, true).is_complete);
  CHECK(pack(model.dir, model.scratch / "whole", false).is_complete);
  CHECK(get_file(out + "/model.safetensors") == get_file(model.scratch / "whole/model.safetensors"));
}

TEST_CASE("a value that is refused in a source that was written to is no reason to throw finished work away") {
  const Scratch scratch;
  const std::string model = scratch / "model", out = scratch / "out", weights = model + "/model.safetensors";
  write_model(model, {{8, 128}, {2048, 128}});  // the second one is of two blocks
  const std::string before = get_file(weights);
  const timespec written = time_of(weights);
  const std::string error = error_of([&] {
    pack(model, out, false, [&](const WeightItem& item) {
      if (item.rows != 2048) return;
      std::string other = before;
      std::fill(other.begin() + static_cast<std::ptrdiff_t>(other.size() / 4 * 3), other.end(), '\xff');  // NaN
      test::put_file(weights, other);
    });
  });
  check_contains(error, weights + ": was written to while tq read it");
  test::put_file(weights, before);
  set_time(weights, written);
  const PackWeightsResult rest = pack(model, out, true);
  CHECK(rest.is_complete);
  CHECK(rest.resumed == 1);
}

TEST_CASE("files beside the weights are those of the end, and a file of weights that was replaced is named") {
  const Model model;
  const std::string out = model.scratch / "out", other_config = "{\"model_type\": \"another\"}";
  pack(model.dir, out, false, [&](const WeightItem&) { test::put_file(model.dir + "/config.json", other_config); });
  CHECK(get_file(out + "/config.json") == other_config);
  CHECK(pack(model.dir, out, true).was_complete);

  const std::string replaced = model.scratch / "replaced";
  const std::string error = error_of([&] {
    pack(model.dir, replaced, false, [&](const WeightItem&) {
      test::put_file(model.dir + "/new", get_file(model.weights) + " ");
      fs::rename(model.dir + "/new", model.weights);
    });
  });
  check_contains(error, "source file model.safetensors: its size");
  CHECK_FALSE(fs::exists(replaced + "/config.json"));
}

TEST_CASE("a complete result is read again before it is called complete") {
  const Model model;
  const std::string out = model.scratch / "out";
  REQUIRE(pack(model.dir, out, false).is_complete);
  CHECK(pack(model.dir, out, true).was_complete);
  for (const char* name : {"/config.json", "/model.safetensors"}) {
    CAPTURE(name);
    const std::string before = get_file(out + name);
    std::string damaged = before;
    char& byte = damaged[damaged.size() - 9];
    byte = static_cast<char>(byte ^ 1);
    test::put_file(out + name, damaged);
    check_contains(error_of([&] { pack(model.dir, out, true); }), std::string(name).substr(1));
    test::put_file(out + name, before);
    CHECK(pack(model.dir, out, true).was_complete);
  }
}

TEST_CASE("a source that is cut short while it is packed is named, with the byte at which it ends") {
  const Model model;
  const std::string out = model.scratch / "out";
  const std::uintmax_t bytes = fs::file_size(model.weights);
  const std::string error = error_of([&] {
    pack(model.dir, out, false, [&](const WeightItem&) { fs::resize_file(model.weights, bytes / 8); });
  });
  check_contains(error, model.weights);
  const bool is_seen = error.find("was written to") != std::string::npos || error.find("ends at byte offset") != std::string::npos;
  CHECK(is_seen);
  CHECK_FALSE(fs::exists(out + "/config.json"));
}

TEST_CASE("padding is zeros, whatever the buffer held before") {
  constexpr std::int64_t kRows = 40, kGroup = 128;
  constexpr std::int64_t kColumns[] = {640, 200, 130, 600, 129, 333};  // one thread: a tensor finds what the one before left
  const Scratch scratch;
  std::vector<Matrix> matrices;
  for (const std::int64_t columns : kColumns) matrices.push_back({kRows, columns});
  const std::vector<std::vector<float>> tensors = write_model(scratch / "model", matrices);
  REQUIRE(pack(scratch / "model", scratch / "out", false).is_complete);

  const auto backend = make_cpu_backend("scalar");
  const Checkpoint source = Checkpoint::open(scratch / "model");
  const WeightPlan plan = plan_weights(source, WeightOptions());
  const Checkpoint packed = Checkpoint::open(scratch / "out");
  for (std::size_t i = 0; i < std::size(kColumns); ++i) {
    CAPTURE(kColumns[i]);
    const std::string name = fmt::format("layers.{}.up_proj.weight", i);
    const auto item = std::find_if(plan.items.begin(), plan.items.end(), [&](const WeightItem& x) { return x.name() == name; });
    REQUIRE((item != plan.items.end() && item->is_quantized()));
    std::vector<float> groups(static_cast<std::size_t>(item->lines() * kGroup), 0.0f);
    for (std::int64_t row = 0; row < kRows; ++row) {
      std::copy_n(tensors[i].begin() + row * kColumns[i], kColumns[i], groups.begin() + row * item->groups * kGroup);
    }
    const test::Coded expected = test::code_rows(*backend, *item->codec, groups);
    const Checkpoint::Entry& entry = packed.at(name + ".tq_packed");
    std::vector<std::uint8_t> codes(entry.info->bytes);
    packed.read(entry, 0, std::as_writable_bytes(std::span(codes)));
    CHECK(codes == expected.codes);
  }
}

}  // namespace
}  // namespace tq
