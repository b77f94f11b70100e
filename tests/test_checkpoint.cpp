// Opening a model's directory: the index is believed only where the shards say the same.
#include <map>

#include "lib/io/checkpoint.h"
#include "tests/io_helpers.h"

using namespace tq;
using namespace tq::test;

namespace {

/// A shard with U8 tensors of 3 bytes: the first letter of the name, thrice.
void put_shard(const std::string& path, const std::vector<std::string>& names) {
  std::vector<TensorSpec> specs;
  for (const std::string& name : names) specs.push_back({name, DType::kU8, {3}});
  SafetensorsWriter writer(specs);
  writer.create(path, true);
  for (std::size_t i = 0; i < names.size(); ++i) writer.write(i, 0, bytes_of(std::string(3, names[i].front())));
  writer.commit();
}

void put_index(const Scratch& dir, const std::string& weight_map) {
  put_file(dir / "model.safetensors.index.json", "{\"metadata\":{\"total_size\":9},\"weight_map\":{" + weight_map + "}}");
}

std::string refusal(const Scratch& dir) {
  return error_of([&] { Checkpoint::open(dir.dir.string()); });
}

/// Sets environment variables while it lives; nullptr unsets.
class Environment {
 public:
  explicit Environment(const std::map<std::string, const char*>& values) {
    for (const auto& [name, value] : values) {
      const char* before = std::getenv(name.c_str());
      before_[name] = before == nullptr ? std::optional<std::string>() : before;
      value == nullptr ? ::unsetenv(name.c_str()) : ::setenv(name.c_str(), value, 1);
    }
  }
  ~Environment() {
    for (const auto& [name, value] : before_) value ? ::setenv(name.c_str(), value->c_str(), 1) : ::unsetenv(name.c_str());
  }

 private:
  std::map<std::string, std::optional<std::string>> before_;
};

}  // namespace

TEST_CASE("a single file and an index with shards open alike") {
  const Scratch dir;
  check_contains(refusal(dir), "has neither model.safetensors nor model.safetensors.index.json");
  check_contains(error_of([&] { Checkpoint::open(dir / "none"); }), "none: is not a directory");

  put_shard(dir / "b.safetensors", {"z", "m"});
  put_shard(dir / "a.safetensors", {"y", "x"});
  put_index(dir, R"("z":"b.safetensors","m":"b.safetensors","y":"a.safetensors")");  // x is left out, and taken
  const Checkpoint sharded = Checkpoint::open(dir.dir.string());
  REQUIRE(sharded.shards().size() == 2);
  CHECK(sharded.shards()[0].file().path() == (dir / "a.safetensors"));
  std::string order;
  for (const Checkpoint::Entry& entry : sharded.tensors()) order += entry.info->name + std::to_string(entry.shard);
  CHECK(order == "y0x0z1m1");
  std::string out(2, ' ');
  sharded.read(*sharded.find("m"), 1, std::as_writable_bytes(std::span(out)));
  CHECK(out == "mm");
  CHECK_THROWS_AS(sharded.read(*sharded.find("m"), 2, std::as_writable_bytes(std::span(out))), Error);
  CHECK(sharded.find("none") == nullptr);
  check_contains(error_of([&] { sharded.at("none\n"); }), "has no tensor \"none\\n\"");

  put_shard(dir / "model.safetensors", {"w"});  // as loaders do: the single file comes first
  const Checkpoint single = Checkpoint::open(dir.dir.string());
  CHECK(single.tensors().size() == 1);
  CHECK(single.find("w") != nullptr);
}

TEST_CASE("entries stay sound when the checkpoint moves") {
  const Scratch dir;
  put_shard(dir / "model.safetensors", {"a", "b"});
  Checkpoint first = Checkpoint::open(dir.dir.string());
  const Checkpoint moved = std::move(first);
  REQUIRE(moved.find("b") != nullptr);
  CHECK(moved.find("b")->info->name == "b");
  CHECK(moved.tensors()[0].info->name == "a");
}

TEST_CASE("an index that is not true is refused, with file and tensor") {
  const Scratch dir;
  put_shard(dir / "a.safetensors", {"x", "y"});
  put_shard(dir / "b.safetensors", {"z"});
  put_index(dir, R"("x":"a.safetensors","z":"c.safetensors")");
  check_contains(refusal(dir), "says that \"z\" is in \"c.safetensors\", and that file is missing");
  put_index(dir, R"("x":"b.safetensors","z":"b.safetensors","y":"a.safetensors")");
  check_contains(refusal(dir), "tensor \"x\" is in \"b.safetensors\", and it is in \"a.safetensors\"");
  put_index(dir, R"("x":"a.safetensors","q":"b.safetensors")");
  check_contains(refusal(dir), "tensor \"q\" is in \"b.safetensors\", and it is in no shard");
  put_index(dir, R"("x":"a.safetensors","x":"a.safetensors")");
  check_contains(refusal(dir), "\"x\" occurs twice in weight_map");
  for (const std::string name : {"../a.safetensors", "sub/a.safetensors", "/a.safetensors", "..", ".", "", "a\\u0000"}) {
    put_index(dir, "\"x\":\"" + name + "\"");
    check_contains(refusal(dir), "which is no plain file name");
  }
  put_index(dir, R"("x":3)");
  check_contains(refusal(dir), "the file of \"x\" is not a string");
  for (const std::string text : {"", "{", "[]", "{}", "{\"weight_map\":[]}", "{\"weight_map\":{\"\xff\":\"a\"}}"}) {
    put_file(dir / "model.safetensors.index.json", text);
    CHECK(refusal(dir) != "no error");
  }
  put_file(dir / "model.safetensors.index.json", "{\"weight_map\":{\"x\":\"a.safetensors\"},\"weight_map\":{}}");
  check_contains(refusal(dir), "\"weight_map\" occurs twice");
  put_file(dir / "model.safetensors.index.json", "{\"a\":" + std::string(100'000, '['));
  check_contains(refusal(dir), "not valid JSON");
}

TEST_CASE("a tensor in two shards, and a broken shard, are refused") {
  const Scratch dir;
  put_shard(dir / "a.safetensors", {"x", "y"});
  put_shard(dir / "b.safetensors", {"z", "y"});
  put_index(dir, R"("x":"a.safetensors","z":"b.safetensors")");
  check_contains(refusal(dir), "tensor \"y\" is in " + (dir / "a.safetensors") + " as well");
  put_file(dir / "b.safetensors", "short");
  check_contains(refusal(dir), "b.safetensors: is not a safetensors file");
  fs::remove(dir / "b.safetensors");
  fs::create_directory(dir / "b.safetensors");
  check_contains(refusal(dir), "b.safetensors: is a directory");
}

TEST_CASE("a model is a directory, or a hub id in the local cache") {
  const Scratch dir;
  CHECK(find_model_dir(dir.dir.string()) == dir.dir.string());
  put_file(dir / "file", "x");
  check_contains(error_of([&] { find_model_dir(dir / "file"); }), "is a file");
  check_contains(error_of([&] { find_model_dir(dir / "none"); }), "there is no such directory");
  check_contains(error_of([&] { find_model_dir(""); }), "there is no such directory");

  const fs::path hub = dir.dir / "home" / "hub";
  const fs::path repository = hub / "models--org--small-1.5";
  const std::string home = dir / "home";
  const Environment environment(
      {{"HF_HUB_CACHE", nullptr}, {"HF_HOME", home.c_str()}, {"XDG_CACHE_HOME", nullptr}});
  const auto find = [] { return find_model_dir("org/small-1.5"); };
  check_contains(error_of(find), hub.string() + "; fetch it with 'hf download org/small-1.5'");
  fs::create_directories(repository / "snapshots");
  check_contains(error_of(find), "has no snapshot");
  fs::create_directories(repository / "snapshots" / "aaa");
  CHECK(find() == (repository / "snapshots" / "aaa").string());
  fs::create_directories(repository / "snapshots" / "bbb");
  check_contains(error_of(find), "2 snapshots");
  fs::create_directories(repository / "refs");
  put_file((repository / "refs" / "main").string(), "bbb\n");
  CHECK(find() == (repository / "snapshots" / "bbb").string());
  check_contains(error_of([&] { Checkpoint::open(find()); }), "fetch the rest with 'hf download org/small-1.5'");
  for (const char* gone : {"../../..", "ccc"}) {  // not another in its place
    put_file((repository / "refs" / "main").string(), gone);
    check_contains(error_of(find), std::string("names the snapshot \"") + gone);
    check_contains(error_of(find), "fetch it with 'hf download org/small-1.5'");
  }
  {
    const std::string elsewhere = dir / "else";
    const Environment other(std::map<std::string, const char*>{{"HUGGINGFACE_HUB_CACHE", elsewhere.c_str()}});
    check_contains(error_of(find), elsewhere + "; fetch it");
  }
  for (const std::string id : {"../small", "org/..", "org/a/b", "org/", "/small", "org/a b"}) {
    CHECK(error_of([&] { find_model_dir(id); }) != "no error");
  }
}
