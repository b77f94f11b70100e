// Opening a native TQ3 checkpoint: the configuration and the files must say the same.
#include "lib/io/tq3_checkpoint.h"
#include "tests/io_helpers.h"

using namespace tq;
using namespace tq::test;

namespace {

const std::string kPublished = R"({"format": "tq3_native", "bits": 3, "group_size": 128, "quantizer_seed": 42,
  "compressed_layers": 1, "original_model": "org/model", "sensitive_bits": 4, "sensitive_patterns": ["down_proj"]})";

void put_tensors(const Scratch& dir, const std::vector<TensorSpec>& specs) {
  SafetensorsWriter writer(specs);
  writer.create(dir / "model.safetensors", true);
  for (std::size_t i = 0; i < specs.size(); ++i) writer.write(i, 0, std::vector<std::byte>(writer.tensors()[i].bytes));
  writer.commit();
}

std::string refusal(const Scratch& dir) {
  return error_of([&] { Tq3Checkpoint::open(dir.dir.string()); });
}

Tq3Config own_config() {
  Tq3Config config;
  config.bits = 3;
  config.group_size = 128;
  config.original_model = "org/model";
  config.by_tq = true;
  config.tool = "tq 0";
  config.fingerprint = "0123456789abcdef";
  config.made_from = R"({"option": {"--bits": 3}, "file": {}})";
  config.schemes.emplace(3, tq3_scheme(3, 128));
  config.quantized["a.weight"] = {3, DType::kF16, {4, 200}, "00000000000000aa", "00000000000000bb"};
  config.kept["n"] = {DType::kBf16, "00000000000000cc"};
  return config;
}

}  // namespace

TEST_CASE("a published checkpoint opens with what its sizes tell") {
  const Scratch dir;
  CHECK_FALSE(Tq3Checkpoint::claims(dir.dir.string()));
  check_contains(refusal(dir), "has no tq_config.json");
  put_file(dir / "tq_config.json", kPublished);
  put_tensors(dir, {{"a.weight.tq_norms", DType::kF32, {4, 2}}, {"x.down_proj.weight.tq_packed", DType::kU8, {6, 64}},
                    {"n", DType::kF16, {7}}, {"a.weight.tq_packed", DType::kU8, {8, 48}},
                    {"x.down_proj.weight.tq_norms", DType::kF32, {2, 3}}});
  const Tq3Checkpoint model = Tq3Checkpoint::open(dir.dir.string());
  CHECK_FALSE(model.config().by_tq);
  REQUIRE(model.tensors().size() == 3);
  const Tq3Tensor* a = model.find("a.weight");
  REQUIRE(a != nullptr);
  CHECK(a->bits == 3);
  CHECK(a->rows == 4);
  CHECK(a->shape == std::vector<std::int64_t>{4, 256});
  CHECK(a->codec->scheme() == tq3_scheme(3, 128));
  CHECK(model.find("x.down_proj.weight")->bits == 4);
  CHECK(model.find("x.down_proj.weight")->codec->scheme().codebook == "vj-d128-b4");
  CHECK(model.find("n")->bits == 0);
  CHECK(model.find("n")->kept->info->shape == std::vector<std::int64_t>{7});
  CHECK(model.find("a.weight.tq_norms") == nullptr);
}

TEST_CASE("the configuration that tq writes comes back, and tells shape and type") {
  const Scratch dir;
  const Tq3Config config = own_config();
  const std::string text = format_tq3_config(config);
  CHECK(format_tq3_config(parse_tq3_config(text, "f")) == text);
  put_file(dir / "tq_config.json", text);
  put_tensors(dir, {{"a.weight.tq_norms", DType::kF32, {4, 2}}, {"n", DType::kF16, {7}}, {"a.weight.tq_packed", DType::kU8, {8, 48}}});
  const Tq3Checkpoint model = Tq3Checkpoint::open(dir.dir.string());
  CHECK(model.find("a.weight")->shape == std::vector<std::int64_t>{4, 200});
  CHECK(model.find("a.weight")->dtype == DType::kF16);
  CHECK(model.find("a.weight")->in_dim() == 200);
  CHECK(model.find("n")->dtype == DType::kBf16);
  CHECK(model.config().quantized.at("a.weight").packed_hash == "00000000000000aa");

  Tq3Config other = config;
  other.quantized["a.weight"].shape = {4, 300};
  put_file(dir / "tq_config.json", format_tq3_config(other));
  check_contains(refusal(dir), "does not fit the source's shape [4, 300]");
  other = config;
  other.quantized["b.weight"] = other.quantized["a.weight"];
  put_file(dir / "tq_config.json", format_tq3_config(other));
  check_contains(refusal(dir), "has no tensor \"b.weight\"");
  other = config;
  other.kept.clear();
  put_file(dir / "tq_config.json", format_tq3_config(other));
  check_contains(refusal(dir), "tensor \"n\" is not in tq_config.json");
}

TEST_CASE("codes and norms that do not belong together are refused by name") {
  const Scratch dir;
  put_file(dir / "tq_config.json", kPublished);
  const auto refused = [&](const std::vector<TensorSpec>& specs, const std::string& words) {
    put_tensors(dir, specs);
    check_contains(refusal(dir), words);
  };
  const TensorSpec packed{"a.tq_packed", DType::kU8, {8, 48}};
  const TensorSpec norms{"a.tq_norms", DType::kF32, {4, 2}};
  refused({packed}, "\"a.tq_packed\" has no norms beside it");
  refused({norms}, "\"a.tq_norms\" has no codes beside it");
  refused({packed, {"a.tq_norms", DType::kF16, {4, 2}}}, "is not F32 [rows, groups]");
  refused({packed, {"a.tq_norms", DType::kF32, {8}}}, "is not F32 [rows, groups]");
  refused({{"a.tq_packed", DType::kU8, {8, 64}}, norms}, "8 groups of 128 values at 3 bits take 48 bytes each");
  refused({{"a.tq_packed", DType::kI8, {8, 48}}, norms}, "is I8 of 384 bytes");
  refused({{"a.tq_packed", DType::kU8, {7, 48}}, norms}, "is U8 of 336 bytes");
  refused({{"a.tq_packed", DType::kU8, {0}}, {"a.tq_norms", DType::kF32, {0, 1LL << 58}}}, "too many groups");
  refused({packed, norms, {"a", DType::kU8, {1}}}, "is there twice");
}

TEST_CASE("each broken configuration is refused") {
  const auto with = [](const std::string& from, const std::string& to, std::string text) {
    const std::size_t at = text.find(from);
    REQUIRE(at != std::string::npos);
    return text.replace(at, from.size(), to);
  };
  const auto refused = [](const std::string& text) {
    const std::string message = error_of([&] { parse_tq3_config(text, "f"); });
    INFO(text);
    CHECK(message.starts_with("f: "));
    return message;
  };
  for (const std::string text : {"", "[]", "3", "{", "{}", "{\"format\":\"tq3_native\"}", "\xff"}) refused(text);
  check_contains(refused(with("tq3_native", "awq", kPublished)), "\"format\" is \"awq\"");
  for (const std::string bits : {"5", "1", "-3", "3.0", "\"3\"", "null", "99999999999999999999"}) {
    refused(with("\"bits\": 3", "\"bits\": " + bits, kPublished));
  }
  check_contains(refused(with("128", "96", kPublished)), "64, 128 and 256 have a table");
  check_contains(refused(with("{", "{\"bits\": 3, ", kPublished)), "the key \"bits\" occurs twice");
  refused(with("[\"down_proj\"]", "\"down_proj\"", kPublished));
  const std::string own = format_tq3_config(own_config());
  for (const auto& [from, to] : std::initializer_list<std::pair<std::string, std::string>>{
           {"\"version\": 2", "\"version\": 3"}, {"\"made_from\"", "\"made\""}, {"\"option\"", "\"opt\""}, {"\"F16\"", "\"F99\""}, {"00000000000000aa", "00000000000000AA"},
           {"200", "-200"}, {"200", "2.5"}, {"\"kept\"", "\"keep\""}, {"\"schemes\"", "\"scheme\""}, {"dim=128", "dim=64"},
           {"tq/1", "tq/9"}, {"\"fingerprint\"", "\"finger\""}, {"norm_dtype=F32", "norm_dtype=F16"}}) {
    CHECK(refused(with(from, to, own)).find("XXH64") == std::string::npos);  // each has words of its own
  }
  check_contains(refused(with("200", "201", own)), "its XXH64 is another");
}
