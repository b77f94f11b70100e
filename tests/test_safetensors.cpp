// The safetensors container: a round trip, and one case for every way in which a file can be
// broken.
#include <fmt/format.h>
#include <unistd.h>

#include <map>
#include <thread>
#include <utility>
#include <vector>

#include "lib/io/safetensors.h"
#include "tests/io_helpers.h"

using namespace tq;
using namespace tq::test;

namespace {

std::string refusal(const std::string& header, std::uint64_t data_bytes) {
  return error_of([&] { parse_safetensors_header(header, data_bytes, "f"); });
}

}  // namespace

TEST_CASE("what the safetensors writer writes, the reader reads") {
  const Scratch scratch;
  const std::string path = scratch / "a.safetensors";
  const std::string odd = "q\"\\\n\x01 \xc3\xa9";
  const MetadataList metadata = {{"z", "last key first"}, {"hash", "00000000"}, {odd, odd}};
  SafetensorsWriter writer({{"b", DType::kF32, {2, 3}},
                            {odd, DType::kU8, {5}},
                            {"empty", DType::kBf16, {0, 7}},
                            {"scalar", DType::kI64, {}}},
                           metadata);
  CHECK(writer.header_text().starts_with(
      "{\"__metadata__\":{\"z\":\"last key first\",\"hash\":\"00000000\","));
  CHECK((8 + writer.header_text().size()) % 64 == 0);
  CHECK(writer.total_bytes() == 8 + writer.header_text().size() + 24 + 5 + 8);

  const std::string data = "abcdefghijklmnopqrstuvwxEDCBA87654321";
  CHECK_THROWS_AS(writer.write(0, 0, bytes_of("x")), Error);
  writer.create(path, false);
  std::thread other([&] { writer.write(0, 12, bytes_of(data.substr(12, 12))); });
  writer.write(0, 0, bytes_of(data.substr(0, 12)));
  other.join();
  writer.write(3, 0, bytes_of(data.substr(29)));
  check_contains(error_of([&] { writer.commit(); }), "0 of 5 bytes");
  check_contains(error_of([&] { writer.write(1, 3, bytes_of("abc")); }), "do not fit");
  CHECK_THROWS_AS(writer.write(4, 0, {}), Error);
  writer.write(1, 0, bytes_of(data.substr(24, 5)));

  writer.set_metadata("hash", "deadbeef");
  check_contains(error_of([&] { writer.set_metadata("hash", "123456789"); }), "11 bytes, but 10");
  check_contains(error_of([&] { writer.set_metadata("hash", "123456\n"); }), "no error");
  check_contains(error_of([&] { writer.set_metadata("hash", "1234567\n"); }), "11 bytes, but 10");
  writer.set_metadata("hash", "deadbeef");
  CHECK_THROWS_AS(writer.set_metadata("none", "x"), Error);
  CHECK_FALSE(fs::exists(path));
  writer.commit();
  CHECK_THROWS_AS(writer.set_metadata("hash", "deadbeef"), Error);

  const SafetensorsFile file = SafetensorsFile::open(path);
  CHECK(file.file().size() == writer.total_bytes());
  CHECK(file.header() == writer.header_text());
  CHECK(get_file(path).substr(8 + file.header().size()) == data);
  CHECK(file.metadata() == std::map<std::string, std::string>{
                               {"z", "last key first"}, {"hash", "deadbeef"}, {odd, odd}});
  REQUIRE(file.tensors().size() == 4);
  for (std::size_t i = 0; i < 4; ++i) {
    CHECK(file.tensors()[i].name == writer.tensors()[i].name);
    CHECK(file.tensors()[i].offset == writer.tensors()[i].offset);
    CHECK(file.tensors()[i].bytes == writer.tensors()[i].bytes);
    CHECK(file.tensors()[i].shape == writer.tensors()[i].shape);
  }
  CHECK(file.at("b").elements() == 6);
  CHECK(file.at("empty").elements() == 0);
  CHECK(file.at("scalar").elements() == 1);
  CHECK(file.find("c") == nullptr);
  check_contains(error_of([&] { file.at("c\n"); }), path + ": has no tensor \"c\\n\"");
  std::string out(3, ' ');
  file.read(file.at(odd), 2, std::as_writable_bytes(std::span(out)));
  CHECK(out == "CBA");
  check_contains(
      error_of([&] { file.read(file.at(odd), 3, std::as_writable_bytes(std::span(out))); }),
      "has 5 bytes");
}

TEST_CASE("the safetensors writer is deterministic and refuses what cannot be read back") {
  const std::vector<TensorSpec> specs = {{"y", DType::kF16, {4}}, {"x", DType::kF32, {1, 2}}};
  CHECK(SafetensorsWriter(specs, {{"k", "v"}}).header_text() ==
        "{\"__metadata__\":{\"k\":\"v\"},\"y\":{\"dtype\":\"F16\",\"shape\":[4],\"data_offsets\":["
        "0,8]},"
        "\"x\":{\"dtype\":\"F32\",\"shape\":[1,2],\"data_offsets\":[8,16]}}" +
            std::string(49, ' '));
  CHECK(SafetensorsWriter({}).header_text() == "{}" + std::string(54, ' '));

  const auto refused = [](const std::vector<TensorSpec>& bad, const MetadataList& metadata) {
    return error_of([&] { SafetensorsWriter(bad, metadata); });
  };
  check_contains(refused({specs[0], specs[0]}, {}), "\"y\": the name is taken");
  check_contains(refused({{"__metadata__", DType::kU8, {}}}, {}), "the name is taken");
  check_contains(refused({}, {{"k", "1"}, {"k", "2"}}), "given twice");
  check_contains(refused({{"\xff", DType::kU8, {}}}, {}), "UTF-8");
  check_contains(refused({}, {{"k", "\xc3"}}), "UTF-8");
  check_contains(refused({{"n", DType::kU8, {-1}}}, {}), "negative");
  check_contains(refused({{"n", DType::kF32, {1LL << 61}}}, {}), "too large");
  check_contains(refused({{"n", DType::kU8, {1LL << 62}}, {"m", DType::kU8, {1LL << 62}}}, {}),
                 "too large");
  check_contains(refused({}, {{"k", std::string(kMaxSafetensorsHeader, 'x')}}), "limit");
}

TEST_CASE("a safetensors writer without commit leaves nothing, and a limit is met at create") {
  const Scratch scratch;
  const std::string path = scratch / "a";
  {
    SafetensorsWriter writer({{"a", DType::kU8, {4}}});
    writer.create(path, false);
    writer.write(0, 0, bytes_of("abcd"));
    CHECK_THROWS_AS(writer.create(path, false), Error);
  }
  CHECK(scratch.count() == 0);
  std::string message;
  {
    const FileSizeLimit limit(4096);
    message = error_of([&] { SafetensorsWriter({{"a", DType::kU8, {8192}}}).create(path, false); });
  }
  check_contains(message, "there is no room");
  CHECK(scratch.count() == 0);
}

TEST_CASE("a safetensors file is refused at every truncation and with appended bytes") {
  const Scratch scratch;
  const std::string path = scratch / "a";
  const std::string header =
      "{\"a\":{\"dtype\":\"U8\",\"shape\":[3],\"data_offsets\":[0,3]},\"__metadata__\":{\"k\":"
      "\"v\"}}  ";
  const std::string whole = with_length(header) + "abc";
  put_file(path, whole);
  CHECK(SafetensorsFile::open(path).at("a").offset == 8 + header.size());
  for (std::size_t size = 0; size < whole.size(); ++size) {
    put_file(path, whole.substr(0, size));
    check_contains(error_of([&] { SafetensorsFile::open(path); }), path + ": ");
    if (size < header.size() - 2) {
      CHECK(refusal(header.substr(0, size), 3) != "no error");
      put_file(path, with_length(header.substr(0, size)) + "abc");
      CHECK(error_of([&] { SafetensorsFile::open(path); }) != "no error");
    }
  }
  put_file(path, whole + "de");
  check_contains(error_of([&] { SafetensorsFile::open(path); }), "2 bytes follow the last tensor");
  for (const std::uint64_t length :
       {kMaxSafetensorsHeader + 1, std::uint64_t{header.size() + 4}, ~std::uint64_t{0}}) {
    std::string bad = whole;
    std::memcpy(bad.data(), &length, 8);
    put_file(path, bad);
    check_contains(error_of([&] { SafetensorsFile::open(path); }),
                   "announce a header of " + std::to_string(length));
  }
  put_file(path, std::string(8, '\0'));
  check_contains(error_of([&] { SafetensorsFile::open(path); }), "does not start with '{'");
  put_file(path, with_length("{}"));
  CHECK(SafetensorsFile::open(path).tensors().empty());
}

TEST_CASE("an absurd header length is refused without allocating it") {
  const Scratch scratch;
  const std::string path = scratch / "sparse";
  const std::uint64_t length = kMaxSafetensorsHeader + 1;
  put_file(path, std::string(reinterpret_cast<const char*>(&length), 8) + "{");
  REQUIRE(::truncate(path.c_str(), static_cast<off_t>(length) + 100) == 0);
  check_contains(error_of([&] { SafetensorsFile::open(path); }), "100000000 are the limit");
}

TEST_CASE("each broken header is refused with its tensor and place") {
  const auto entry = [](const std::string& fields) { return "{\"t\":{" + fields + "}}"; };
  const std::string dtype = "\"dtype\":\"U8\"";
  const std::string shape = "\"shape\":[2,2]";
  const std::string place = "\"data_offsets\":[0,4]";
  const std::string good = dtype + "," + shape + "," + place;
  CHECK(refusal(entry(good), 4) == "no error");
  CHECK(refusal("{ \"t\" :\n{" + place + "," + shape + "," + dtype + "} } ", 4) == "no error");

  const std::string deep(200'000, '[');
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"", "does not start"},
      {"[]", "does not start"},
      {" {}", "does not start"},
      {"{}\n", "does not end"},
      {std::string("{}\0", 3), "does not end"},
      {std::string("{}\0}", 4), "NUL"},
      {"{}}", "not valid JSON"},
      {"{}{}", "not valid JSON"},
      {"{,}", "not valid JSON"},
      {"{\"__metadata__\":{}", "not valid JSON"},
      {"{\"\xff\":{}}", "UTF-8"},
      {"{\"\\ud800\":{}}", "UTF-8"},
      {"{\"t\":1e999}", "not valid JSON"},
      {"{\"t\":3}", "\"t\" must be an object"},
      {"{\"t\":" + deep + "}", "\"t\" must be an object"},
      {"{\"t\":{\"shape\":" + deep + "}", "must be a list of integers"},
      {"{\"t\":{\"dtype\":{\"t\":{}}}}", "dtype must be a string"},
      {entry(""), "\"t\" lacks dtype"},
      {entry(dtype + "," + place), "lacks shape"},
      {entry(dtype + "," + shape), "lacks data_offsets"},
      {entry(good + ",\"extra\":1"), "unknown field \"extra\""},
      {entry(good + "," + dtype), "field dtype twice"},
      {entry(good + "," + shape), "field shape twice"},
      {entry(good + "," + place), "field data_offsets twice"},
      {entry(shape + "," + place + ",\"dtype\":\"F4\""), "unknown dtype \"F4\"; tq knows BOOL, U8"},
      {entry(shape + "," + place + ",\"dtype\":8"), "dtype must be a string"},
      {entry(shape + "," + place + ",\"dtype\":[\"U8\"]"), "dtype must be a string"},
      {entry(dtype + "," + place + ",\"shape\":4"), "shape must be a list"},
      {entry(dtype + "," + place + ",\"shape\":[2,-2]"), "shape must be a list of integers from 0"},
      {entry(dtype + "," + place + ",\"shape\":[2.0,2]"), "shape must be a list"},
      {entry(dtype + "," + place + ",\"shape\":[\"4\"]"), "shape must be a list"},
      {entry(dtype + "," + place + ",\"shape\":[null]"), "shape must be a list"},
      {entry(dtype + "," + place + ",\"shape\":[[4]]"), "shape must be a list"},
      {entry(dtype + "," + place + ",\"shape\":[9223372036854775808]"), "shape must be a list"},
      {entry(dtype + "," + place + ",\"shape\":[4294967296,4294967296]"), "overflows"},
      {entry(dtype + "," + place + ",\"shape\":[0,4294967296,4294967296]"), "overflows"},
      {entry("\"dtype\":\"F64\"," + place + ",\"shape\":[2305843009213693953]"), "overflows"},
      {entry(dtype + "," + place + ",\"shape\":[2,3]"),
       "U8 [2, 3] takes 6 bytes, but data_offsets [0, 4] hold 4"},
      {entry("\"dtype\":\"F16\"," + place + "," + shape), "takes 8 bytes"},
      {entry(dtype + "," + shape + ",\"data_offsets\":[0]"), "must be [begin, end]"},
      {entry(dtype + "," + shape + ",\"data_offsets\":[0,4,4]"), "must be [begin, end]"},
      {entry(dtype + "," + shape + ",\"data_offsets\":[0,-4]"), "data_offsets must be a list"},
      {entry(dtype + "," + shape + ",\"data_offsets\":[0,4.0]"), "data_offsets must be a list"},
      {entry(dtype + "," + shape + ",\"data_offsets\":[4,0]"), "end before they begin"},
      {entry(dtype + "," + shape + ",\"data_offsets\":[1,5]"), "ends at byte 5 of the data"},
      {entry(dtype + "," + shape + ",\"data_offsets\":[18446744073709551612,0]"),
       "end before they begin"},
      {entry(dtype + ",\"shape\":[0],\"data_offsets\":[0,0]"), "4 bytes follow the last tensor"},
      {"{}", "4 bytes follow the last tensor"},
      {"{\"t\":{" + good + "},\"t\":{" + good + "}}", "\"t\" occurs twice"},
      {"{\"t\":{" + good + "},\"\\u0074\":{" + good + "}}", "\"t\" occurs twice"},
      {"{\"__metadata__\":{},\"__metadata__\":{}}", "occurs twice"},
      {"{\"__metadata__\":{\"a\":\"1\",\"a\":\"2\"}}", "metadata key \"a\" occurs twice"},
      {"{\"__metadata__\":{\"a\":1}}", "metadata \"a\" must be a string"},
      {"{\"__metadata__\":{\"a\":{}}}", "metadata \"a\" must be a string"},
      {"{\"__metadata__\":null}", "\"__metadata__\" must be an object"},
  };
  for (const auto& [text, part] : cases) {
    const std::string& header = text;  // clang 14 captures no structured binding in INFO's lambda
    INFO("header: ", header.substr(0, 200));
    const std::string message = refusal(header, 4);
    check_contains(message, part);
    CHECK(message.starts_with("f: "));
    check_contains(message, "byte offset ");
  }
  check_contains(refusal("{\"t\":null}", 0), "at byte offset 16)");
  check_contains(refusal("{\"a\x1b[31m\":3}", 0), "not valid JSON");
  check_contains(refusal("{\"a\\u001b[31m\\u007f\":3}", 0), "\"a\\u001b[31m\\u007f\" must be");
  CHECK(refusal("{\"" + std::string(100'000, 'n') + "\":3}", 0).size() < 300);
  CHECK(refusal("{}", ~std::uint64_t{0}) != "no error");
}

TEST_CASE("tensors must cover the data: no overlap, no hole, any order") {
  const auto two = [](int a, int b, int c, int d) {
    return fmt::format(
        "{{\"x\":{{\"dtype\":\"U8\",\"shape\":[{}],\"data_offsets\":[{},{}]}},"
        "\"y\":{{\"dtype\":\"U8\",\"shape\":[{}],\"data_offsets\":[{},{}]}}}}",
        b - a, a, b, d - c, c, d);
  };
  CHECK(refusal(two(0, 4, 4, 8), 8) == "no error");
  CHECK(refusal(two(4, 8, 0, 4), 8) == "no error");
  CHECK(refusal(two(4, 4, 0, 8), 8) != "no error");
  CHECK(refusal(two(0, 0, 0, 8), 8) == "no error");
  CHECK(refusal(two(8, 8, 0, 8), 8) == "no error");
  check_contains(refusal(two(0, 4, 3, 8), 8), "tensor \"y\" begins at byte offset");
  check_contains(refusal(two(0, 4, 3, 8), 8), "overlap");
  check_contains(refusal(two(0, 8, 0, 8), 8), "overlap");
  check_contains(refusal(two(0, 3, 4, 8), 8), "hole");
  check_contains(refusal(two(1, 4, 4, 8), 8), "\"x\"");
  check_contains(refusal(two(0, 4, 4, 7), 8), "1 bytes follow");
  const SafetensorsHeader swapped = parse_safetensors_header(two(4, 8, 0, 4), 8, "f");
  CHECK(swapped.tensors[0].name == "x");
  CHECK(swapped.tensors[0].offset == swapped.tensors[1].offset + 4);
}
