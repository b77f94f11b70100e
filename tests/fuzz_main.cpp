// A small stand-in for libFuzzer where the compiler has none: mutates seed files for a number of runs, always the same way.
//   fuzz_X RUNS SEED_FILE...
// Each run is repeatable: its mutations follow from its number.
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <random>
#include <string>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);

namespace {

using Bytes = std::vector<std::uint8_t>;

Bytes mutate(Bytes bytes, std::mt19937& generator) {
  static const std::string kWords[] = {"0", "-1", "1e9", "18446744073709551615", "[", "]", "{", "}", "\"", ":", ",", "U8",
                                       "F32", "null", "bits=9", "dim=8", "rotation=qr", "\\u0000", "codebook.", ".norms"};
  const int edits = 1 + static_cast<int>(generator() % 4);
  for (int edit = 0; edit < edits; ++edit) {
    // Mostly in the header, which is where decisions are made.
    const std::size_t reach = generator() % 4 == 0 ? bytes.size() : std::min<std::size_t>(bytes.size(), 4096);
    const std::size_t at = reach == 0 ? 0 : generator() % reach;
    const auto place = bytes.begin() + static_cast<std::ptrdiff_t>(at);
    switch (generator() % 6) {
      case 0: if (!bytes.empty()) *place = static_cast<std::uint8_t>(generator()); break;
      case 1: if (!bytes.empty()) *place = static_cast<std::uint8_t>(*place ^ (1u << (generator() % 8))); break;
      case 2: bytes.insert(place, static_cast<std::uint8_t>(generator())); break;
      case 3: bytes.erase(place, place + static_cast<std::ptrdiff_t>(std::min<std::size_t>(bytes.size() - at, generator() % 9))); break;
      case 4: bytes.resize(at); break;
      default: {
        const std::string& word = kWords[generator() % std::size(kWords)];
        bytes.insert(place, word.begin(), word.end());
      }
    }
  }
  return bytes;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 3) return std::fprintf(stderr, "usage: %s RUNS SEED_FILE...\n", argv[0]), 2;
  std::vector<Bytes> seeds;
  for (int i = 2; i < argc; ++i) {
    std::ifstream file(argv[i], std::ios::binary);
    seeds.emplace_back(std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>());
    if (seeds.back().empty()) return std::fprintf(stderr, "%s: cannot read the seed\n", argv[i]), 2;
  }
  const long runs = std::atol(argv[1]);
  for (long run = 0; run < runs; ++run) {
    std::mt19937 generator(static_cast<std::uint32_t>(run));
    const Bytes input = mutate(seeds[generator() % seeds.size()], generator);
    LLVMFuzzerTestOneInput(input.data(), input.size());
  }
  std::printf("%ld runs on %zu seeds\n", runs, seeds.size());
  return 0;
}
