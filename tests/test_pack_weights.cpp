// The pipeline of model weights in one process: a source that does not stay as it was, and blocks that are no multiple of anything.
#include <doctest/doctest.h>
#include <fcntl.h>
#include <sys/stat.h>

#include "lib/pack/pack_weights.h"
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

}  // namespace
}  // namespace tq
