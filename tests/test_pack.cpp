// The two pipelines: what is written is what was planned, and comes back.
#include <doctest/doctest.h>

#include <algorithm>
#include <atomic>
#include <thread>

#include "lib/tq.h"
#include "tests/codec_helpers.h"
#include "tests/io_helpers.h"

namespace tq {
namespace {

using test::get_file;
using test::put_file;
using test::Scratch;

/// Two layers that differ in everything: 3 heads of 40 tokens at dims 64 / 96, and 1 head of 7 tokens at 100 / 128.
std::string write_dump(const Scratch& dir, DType dtype) {
  const std::vector<TensorSpec> specs = {{"k.0", dtype, {3, 40, 64}},
                                         {"v.0", dtype, {3, 40, 96}},
                                         {"layers.5.key", dtype, {1, 1, 7, 100}},
                                         {"layers.5.value", dtype, {1, 1, 7, 128}}};
  SafetensorsWriter writer(specs, {{"model", "made up"}, {"attention_scale", "0.125"}});
  const std::string path = dir / "dump.safetensors";
  writer.create(path, true);
  for (std::size_t i = 0; i < specs.size(); ++i) {
    const std::int64_t count = writer.tensors()[i].elements();
    const std::vector<float> x = test::gaussian_rows(static_cast<std::uint32_t>(i + 1), count, 1);
    std::vector<std::byte> bytes(static_cast<std::size_t>(count) * size_of(dtype));
    convert_from_float(x.data(), count, dtype, bytes.data());
    writer.write(i, 0, bytes);
  }
  writer.commit();
  return path;
}

TEST_CASE("the file has the size of the plan, whatever the threads and the target; names and shapes come back") {
  const Scratch dir;
  for (const DType dtype : {DType::kF32, DType::kF16, DType::kBf16}) {
    const KvDump dump = KvDump::open(write_dump(dir, dtype));
    const KvPlan plan = plan_kv(dump, {.k_bits = 4, .v_bits = 3});
    std::string first;
    for (const std::string& target : cpu_targets()) {
      for (const int threads : {1, 3}) {
        pack_kv(dump, plan, *make_cpu_backend(target), dir / "out.tq3", {.threads = threads, .overwrite = true, .progress = {}});
        const std::string bytes = get_file(dir / "out.tq3");
        CHECK(bytes.size() == plan.total_bytes);
        if (first.empty()) first = bytes;
        CHECK(bytes == first);
      }
    }
    const KvFile file = KvFile::open(dir / "out.tq3");
    CHECK_NOTHROW(file.check_payload(2));
    unpack_kv(file, std::nullopt, *make_cpu_backend(), dir / "back.safetensors", {.threads = 2, .overwrite = true, .progress = {}});
    const KvDump back = KvDump::open(dir / "back.safetensors");
    CHECK(back.metadata() == dump.metadata());
    for (const TensorInfo& tensor : dump.file().tensors()) {
      const TensorInfo& other = back.file().at(tensor.name);
      CHECK(other.shape == tensor.shape);
      CHECK(other.dtype == tensor.dtype);
    }
    CHECK(verify_packed(file, dump, {}, *make_cpu_backend()).layers.front().all.k.mse_ratio == doctest::Approx(1.0).epsilon(0.1));
  }
}

TEST_CASE("a byte changed anywhere in the payload is found") {
  const Scratch dir;
  const KvDump dump = KvDump::open(write_dump(dir, DType::kBf16));
  const std::string path = dir / "out.tq3";
  pack_kv(dump, plan_kv(dump, {}), *make_cpu_backend(), path, {.threads = 1, .overwrite = true, .progress = {}});
  const std::string good = get_file(path);
  const KvFile intact = KvFile::open(path);
  for (const TensorInfo& tensor : intact.file().tensors()) {
    std::string bad = good;
    bad[tensor.offset + tensor.bytes / 2] = static_cast<char>(bad[tensor.offset + tensor.bytes / 2] ^ 1);
    put_file(dir / "bad.tq3", bad);
    CAPTURE(tensor.name);
    CHECK_THROWS_AS(KvFile::open(dir / "bad.tq3").check_payload(1), Error);
  }
}

TEST_CASE("scheme text: every field round-trips, and what is not known is refused") {
  for (int bits = 1; bits <= 8; ++bits) {
    const Scheme scheme = default_scheme(bits, 128, bits % 2 == 0 ? RotationKind::kQr : RotationKind::kRht2, 4294967295u);
    CHECK(parse_scheme(format_scheme(scheme), "t") == scheme);
  }
  const std::string good = format_scheme(default_scheme(3, 128));
  const auto with = [&](const std::string& from, const std::string& to) {
    std::string text = good;
    text.replace(text.find(from), from.size(), to);
    return text;
  };
  CHECK_THROWS_AS(parse_scheme(with("tq/1", "tq/2"), "t"), Error);
  CHECK_THROWS_AS(parse_scheme(with("bits=3", "bits=9"), "t"), Error);
  CHECK_THROWS_AS(parse_scheme(with("bits=3", "bits=3x"), "t"), Error);
  CHECK_THROWS_AS(parse_scheme(with("dim=128", "dim=7"), "t"), Error);
  CHECK_THROWS_AS(parse_scheme(with("rotation=rht2", "rotation=dct"), "t"), Error);
  CHECK_THROWS_AS(parse_scheme(with("seed=42", "seed=4294967296"), "t"), Error);
  CHECK_THROWS_AS(parse_scheme(with("norm=raw", "norm=new"), "t"), Error);
  CHECK_THROWS_AS(parse_scheme(good + " qjl=64", "t"), Error);
  CHECK_THROWS_AS(parse_scheme(good.substr(0, 30), "t"), Error);
  CHECK_THROWS_AS(parse_scheme("", "t"), Error);
}

TEST_CASE("parallel work: all pieces once, finished in order, the lowest failure is the one thrown") {
  std::vector<int> seen(100, 0);
  parallel_for(4, 100, [&](std::int64_t i) { ++seen[static_cast<std::size_t>(i)]; });
  CHECK(std::count(seen.begin(), seen.end(), 1) == 100);
  std::vector<std::int64_t> order;
  parallel_ordered(4, 50, [](std::int64_t, int) {}, [&](std::int64_t i, int) { order.push_back(i); });
  CHECK(std::is_sorted(order.begin(), order.end()));
  CHECK(order.size() == 50);
  std::int64_t finished = 0;
  const auto fail_late = [](std::int64_t i, int) {
    if (i >= 20) throw Error(std::to_string(i));
  };
  CHECK_THROWS_WITH_AS(parallel_ordered(4, 50, fail_late, [&](std::int64_t, int) { ++finished; }), "20", Error);
  CHECK(finished == 20);
}

TEST_CASE("parallel work: call after call, in a piece of other work, from several threads, after a failure") {
  std::atomic<std::int64_t> sum = 0;
  const auto add = [&](std::int64_t i) { sum += i; };
  for (int round = 0; round < 200; ++round) parallel_for(1 + round % 7, 10, add);
  CHECK(sum == 200 * 45);
  sum = 0;
  parallel_for(3, 20, [&](std::int64_t) { parallel_for(4, 10, add); });
  CHECK(sum == 20 * 45);
  CHECK_THROWS_WITH_AS(parallel_for(4, 9, [](std::int64_t i) { throw Error(std::to_string(i)); }), "0", Error);
  sum = 0;
  std::vector<std::thread> callers;
  for (int i = 0; i < 4; ++i) callers.emplace_back([&] { for (int round = 0; round < 50; ++round) parallel_for(3, 10, add); });
  for (std::thread& caller : callers) caller.join();
  CHECK(sum == 4 * 50 * 45);
}

}  // namespace
}  // namespace tq
