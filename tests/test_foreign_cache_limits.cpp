// The caches of other systems: the bytes that each takes, and what each refuses. What they make of rows: test_foreign_cache.cpp.
#include <doctest/doctest.h>

#include <limits>
#include <string>
#include <vector>

#include "lib/cache/foreign_methods.h"
#include "lib/error.h"
#include "tests/foreign_cache_helpers.h"
#include "tests/io_helpers.h"

namespace tq {
namespace {

using test::error_of;

TEST_CASE("bytes of a token and head at dim 128") {
  struct Row {
    const char* name;
    std::uint64_t k, v;
  };
  const Row rows[] = {
      {"fp8", 128, 128},
      {"q8_0", 136, 136},
      {"q5_1", 96, 96},
      {"q5_0", 88, 88},
      {"q4_1", 80, 80},
      {"q4_0", 72, 72},
      {"q4_0:rotated", 72, 72},
      {"vllm:turboquant_k8v4", 128, 68},
      {"vllm:turboquant_4bit_nc", 66, 68},
      {"vllm:turboquant_k3v4_nc", 50, 68},
      {"vllm:turboquant_3bit_nc", 50, 52},
  };
  for (const Row& row : rows) {
    CAPTURE(row.name);
    const CachePair pair = make_foreign_cache(row.name, 128, 128);
    CHECK(pair.k->bytes(3, 1000) == 3000 * row.k);
    CHECK(pair.v->bytes(3, 1000) == 3000 * row.v);
    CHECK(pair.k->recent_tokens() == 0);
  }
  // One scale for all heads of K, one for V.
  CHECK(make_foreign_cache("fp8:scaled", 128, 128).k->bytes(3, 1000) == 3000 * 128 + 4);
  // Slots of an even size: 3 + 2 and 4 + 4 bytes take 14, the pad with the values.
  const CachePair odd = make_foreign_cache("vllm:turboquant_k3v4_nc", 8, 8);
  CHECK(odd.k->bytes(1, 1) == 5);
  CHECK(odd.v->bytes(1, 1) == 9);
}

TEST_CASE("bytes of KIVI: a buffer of 128 tokens, and keys that fill no group") {
  const CachePair pair = make_foreign_cache("kivi2", 128, 128);
  CHECK(pair.k->recent_tokens() == 128);
  CHECK(pair.v->recent_tokens() == 128);
  CHECK(pair.k->bytes(1, 128) == 128 * 256);
  CHECK(pair.v->bytes(1, 128) == 128 * 256);
  CHECK(pair.k->bytes(1, 159) == 159 * 256);
  CHECK(pair.v->bytes(1, 159) == 128 * 256 + 31 * 48);
  CHECK(pair.k->bytes(1, 160) == 128 * 256 + 32 * 48);
  CHECK(pair.k->bytes(2, 1128) == 2 * (136 * 256 + 31 * 32 * 48));
  CHECK(pair.v->bytes(2, 1128) == 2 * (128 * 256 + 1000 * 48));
  CHECK(make_foreign_cache("kivi4", 128, 128).k->bytes(1, 160) == 128 * 256 + 32 * 80);
}

TEST_CASE("every name can be made, at two dims, and says what it is") {
  for (const std::string_view name : foreign_cache_names()) {
    CAPTURE(name);
    const CachePair pair = make_foreign_cache(name, 128, 128);
    CHECK(pair.name == name);
    CHECK_FALSE(pair.k->describe().empty());
    CHECK_FALSE(pair.v->describe().empty());
    const std::vector<float> zeros(128, 0.0f);
    check_equal(code(*pair.k, zeros), zeros);
    check_equal(code(*pair.v, zeros), zeros);
  }
  // Keys of 192 and values of 128, as MLA has them, where the system has them.
  CHECK(make_foreign_cache("q8_0", 192, 128).k->bytes(1, 1) == 204);
}

TEST_CASE("what a system refuses is refused by name") {
  CHECK_THROWS_WITH_AS(make_foreign_cache("q8_0", 80, 80),
                       "q8_0 needs rows of a multiple of 32, and these have 80", Error);
  CHECK_THROWS_WITH_AS(make_foreign_cache("q4_0", 128, 72),
                       "q4_0 needs rows of a multiple of 32, and these have 72", Error);
  CHECK_THROWS_WITH_AS(make_foreign_cache("kivi2", 80, 80),
                       "kivi2 needs values of a multiple of 32, and these have 80", Error);
  CHECK_THROWS_WITH_AS(make_foreign_cache("vllm:turboquant_3bit_nc", 96, 96),
                       "vLLM's turboquant_3bit_nc needs rows of a power of two, and these have 96",
                       Error);
  CHECK_NOTHROW(make_foreign_cache("vllm:turboquant_k8v4", 96, 96));
  CHECK(error_of([] {
          make_foreign_cache("vllm:turboquant_k8v4", 192, 128);
        }).find("keys and values of one length, and these have 192 and 128") != std::string::npos);
  CHECK(error_of([] { make_foreign_cache("q8_0:rotated", 96, 96); }).find("without :rotated") !=
        std::string::npos);
  CHECK_THROWS_WITH_AS(make_foreign_cache("fp8", 4, 64), "fp8: rows of 4: must be 8..1024", Error);
  try {
    make_foreign_cache("q3_0", 128, 128);
    FAIL("q3_0 was taken");
  } catch (const UsageError& error) {
    const std::string text = error.what();
    CHECK(text.find("unknown cache 'q3_0'") == 0);
    for (const std::string_view name : foreign_cache_names()) {
      CHECK(text.find(name) != std::string::npos);
    }
  }
}

TEST_CASE("KIVI's refusal names the token, not the first of its group") {
  const CachePair pair = make_foreign_cache("kivi2", 32, 32);
  std::vector<float> x(32 * 32, 1.0f);
  x[5 * 32 + 3] = 70000;
  CHECK(error_of([&] { code(*pair.k, x, 1, 32); }).find("k.0: head 0, token 5: a value is 70000") ==
        0);
  CHECK(error_of([&] { code(*pair.v, x, 1, 32); }).find("k.0: head 0, token 5: a value is 70000") ==
        0);
  x[5 * 32 + 3] = 40000;
  x[6 * 32 + 3] = -40000;
  CHECK(error_of([&] { code(*pair.k, x, 1, 32); }).find("the range of a group is 80000") !=
        std::string::npos);
}

TEST_CASE("rows that a cache cannot hold are refused with head and token") {
  std::vector<float> x(2 * 2 * 64, 1.0f);
  x[3 * 64 + 40] = 1e30f;
  for (const std::string_view name : foreign_cache_names()) {
    CAPTURE(name);
    const bool holds = name.starts_with("fp8");
    const CachePair pair = make_foreign_cache(name, 64, 64);
    for (const auto& method : {pair.k, pair.v}) {
      const bool fp8_keys = name.ends_with("k8v4") && method == pair.k;
      const std::string text = error_of([&] { code(*method, x, 2, 2); });
      if (holds || fp8_keys) {
        CHECK(text == "no error");
      } else {
        CHECK(text.find("k.0: head 1, token 1: ") == 0);
        CHECK(text.find("F16, which ends at 65504") != std::string::npos);
      }
    }
  }
}

}  // namespace
}  // namespace tq
