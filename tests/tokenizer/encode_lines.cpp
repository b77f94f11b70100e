// For tests that compare many strings with another implementation: each line of stdin is a JSON
// string, each line of stdout its ids.
//   encode_lines DIR [--no-special] < strings > ids
#include <cstdio>
#include <exception>
#include <iostream>
#include <nlohmann/json.hpp>
#include <string>

#include "lib/model/tokenizer.h"

int main(int argc, char** argv) {
  try {
    const tq::Tokenizer tokenizer = tq::Tokenizer::open(argc > 1 ? argv[1] : ".");
    const bool special = argc < 3;
    for (std::string line; std::getline(std::cin, line);) {
      std::string ids;
      for (const int id : tokenizer.encode(nlohmann::json::parse(line).get<std::string>(), special))
        ids += std::to_string(id) + " ";
      std::puts(ids.c_str());
    }
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 3;
  }
}
