// The KV dump: layers are found under both naming styles, and what does not fit is refused by name.
#include <fmt/format.h>

#include <cmath>
#include <map>
#include <utility>
#include <vector>

#include "lib/io/kv_dump.h"
#include "tests/io_helpers.h"

using namespace tq;
using namespace tq::test;

namespace {

TensorInfo kv_tensor(const std::string& name, std::vector<std::int64_t> shape,
                     DType dtype = DType::kF16) {
  return {name, dtype, shape, 64, tensor_bytes(dtype, shape).value()};
}

std::string kv_refusal(const std::vector<TensorInfo>& tensors,
                       const std::map<std::string, std::string>& meta = {}) {
  return error_of([&] { classify_kv_tensors(tensors, meta, "f"); });
}

}  // namespace

TEST_CASE("a KV dump is opened layer by layer") {
  const Scratch scratch;
  const std::string path = scratch / "kv.safetensors";
  SafetensorsWriter writer(
      {{"layers.15.value", DType::kF32, {1, 2, 3, 16}},
       {"k.0", DType::kBf16, {1, 4, 8}},
       {"v.0", DType::kF16, {1, 4, 12}},
       {"layers.15.key", DType::kF32, {2, 3, 64}},
       {"layers.15.query", DType::kF16, {6, 1, 64}}},
      {{"sliding_window.15", "128"}, {"attention_softcap", "50"}, {"model", "any"}});
  writer.create(path, false);
  for (std::size_t i = 0; i < 5; ++i)
    writer.write(i, 0, bytes_of(std::string(writer.tensors()[i].bytes, char(i))));
  writer.commit();

  const KvDump dump = KvDump::open(path);
  REQUIRE(dump.layers().size() == 2);
  const KvLayer& first = dump.layers()[0];
  CHECK(first.index == 0);
  CHECK(first.k.info.name == "k.0");
  CHECK(first.v.head_dim == 12);
  CHECK_FALSE(first.q.has_value());
  CHECK(dump.attention_scale(first) == 1.0 / std::sqrt(8.0));
  CHECK_FALSE(dump.sliding_window(first).has_value());
  const KvLayer& second = dump.layers()[1];
  CHECK(second.index == 15);
  CHECK(second.k.heads == 2);
  CHECK(second.k.tokens == 3);
  CHECK(second.k.head_dim == 64);
  CHECK_FALSE(second.k.batched);
  CHECK(second.v.batched);
  REQUIRE(second.q.has_value());
  CHECK(second.q->heads == 6);
  CHECK(dump.attention_scale(second) == 0.125);
  CHECK(dump.sliding_window(second) == 128);
  CHECK(dump.attention_softcap() == 50.0);
  CHECK(dump.metadata().at("model") == "any");
  std::byte byte{};
  dump.file().read(second.q->info, 5, std::span(&byte, 1));
  CHECK(byte == std::byte{4});

  put_file(path, with_length("{}"));
  check_contains(error_of([&] { KvDump::open(path); }), path + ": has no tensors");
}

TEST_CASE("each tensor that does not fit a KV dump is refused by name") {
  const TensorInfo k = kv_tensor("k.3", {2, 5, 64});
  const TensorInfo v = kv_tensor("v.3", {2, 5, 64});
  CHECK(kv_refusal({v, k}) == "no error");
  CHECK(kv_refusal({k, v, kv_tensor("q.3", {8, 5, 64})}) == "no error");
  CHECK(kv_refusal({kv_tensor("k.0", {1, 1, 8}), kv_tensor("v.0", {1, 1, 1024})}) == "no error");

  for (const char* name : {"",
                           "k",
                           "k.",
                           "k.03",
                           "k.-1",
                           "k.+1",
                           "k.1.0",
                           "K.1",
                           "k.99999999999",
                           "kk.1",
                           "x.1",
                           "layers.1.k",
                           "layers.1.keys",
                           "layers.1",
                           "layers..key",
                           "layers.01.key",
                           "layers.key",
                           "model.layers.1.key",
                           "k.1 ",
                           "key.1"}) {
    const std::string message = kv_refusal({k, v, kv_tensor(name, {2, 5, 64})});
    check_contains(message, quote_name(name) + " at byte offset 64: the name is none of a KV dump");
  }
  check_contains(kv_refusal({k}), "\"k.3\" at byte offset 64: layer 3 has no values");
  check_contains(kv_refusal({v}), "layer 3 has no keys");
  check_contains(kv_refusal({kv_tensor("q.3", {2, 5, 64})}), "layer 3 has no keys");
  check_contains(kv_refusal({k, v, kv_tensor("layers.3.key", {2, 5, 64})}), "the same as \"k.3\"");
  check_contains(kv_refusal({}), "has no tensors");

  const auto with_k = [&](std::vector<std::int64_t> shape, DType dtype = DType::kF16) {
    return kv_refusal({kv_tensor("k.3", std::move(shape), dtype), v});
  };
  check_contains(with_k({2, 5, 64}, DType::kI8), "I8 elements");
  check_contains(with_k({2, 5, 64}, DType::kF64), "F64 elements");
  check_contains(with_k({5, 64}), "2 dimensions");
  check_contains(with_k({}), "0 dimensions");
  check_contains(with_k({1, 1, 2, 5, 64}), "5 dimensions");
  check_contains(with_k({2, 2, 5, 64}), "a batch of 2");
  check_contains(with_k({0, 2, 5, 64}), "a batch of 0");
  check_contains(with_k({0, 5, 64}), "has no heads");
  check_contains(with_k({2, 0, 64}), "has no tokens");
  for (const std::int64_t head_dim : {0, 7, 1025}) {
    check_contains(with_k({2, 5, head_dim}),
                   fmt::format("head_dim is {}; tq works from 8 to 1024", head_dim));
  }
  check_contains(with_k({2, 5, (1LL << 32) + 64}), "head_dim is 4294967360");
  check_contains(with_k({4, 5, 64}),
                 "\"v.3\" at byte offset 64: it has 2 heads and 5 tokens, but \"k.3\" has 4 and 5");
  check_contains(with_k({2, 6, 64}), "but \"k.3\" has 2 and 6");
  check_contains(kv_refusal({k, v, kv_tensor("q.3", {3, 5, 64})}), "no multiple of the 2 kv_heads");
  check_contains(kv_refusal({k, v, kv_tensor("q.3", {1, 5, 64})}), "no multiple of the 2 kv_heads");
  check_contains(kv_refusal({k, v, kv_tensor("q.3", {2, 5, 32})}),
                 "head_dim is 32, but that of the keys is 64");
  check_contains(kv_refusal({k, v, kv_tensor("q.3", {2, 6, 64})}), "6 tokens, more than the 5");
}

TEST_CASE("the metadata of a KV dump are read strictly") {
  const std::vector<TensorInfo> tensors = {kv_tensor("k.3", {2, 5, 64}),
                                           kv_tensor("v.3", {2, 5, 64})};
  const KvLayout layout = classify_kv_tensors(
      tensors, {{"attention_scale", "6.25e-2"}, {"sliding_window.3", "4096"}, {"attention", "x"}},
      "f");
  CHECK(layout.attention_scale == 0.0625);
  CHECK(layout.sliding_windows.at(3) == 4096);
  CHECK_FALSE(layout.attention_softcap.has_value());
  for (const char* bad :
       {"", "0", "-1", "+1", " 1", "1 ", "1,5", "inf", "nan", "0x1p3", "1e999", "1e-999", "one"}) {
    check_contains(kv_refusal(tensors, {{"attention_scale", bad}}),
                   "metadata attention_scale is " + quote_name(bad));
    check_contains(kv_refusal(tensors, {{"attention_softcap", bad}}),
                   "metadata attention_softcap is");
    check_contains(kv_refusal(tensors, {{"sliding_window.3", bad}}),
                   "metadata \"sliding_window.3\": ");
  }
  check_contains(kv_refusal(tensors, {{"sliding_window.3", "1.5"}}), "sliding_window");
  for (const char* key :
       {"sliding_window", "sliding_window.03", "sliding_window.4", "sliding_window.x"}) {
    check_contains(kv_refusal(tensors, {{key, "8"}}), quote_name(key));
  }
  check_contains(kv_refusal(tensors, {{"attention_scale.3", "1"}}), "is unknown");
}
