// Fuzzes the reader of tokenizer.json and what it makes of a text: the bytes before the first NUL
// are the file, those after it the text. What is accepted must keep its promises.
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <string_view>

#include "lib/error.h"
#include "lib/model/tokenizer.h"

namespace {

void require(bool promise) {
  if (!promise) std::abort();
}

void check_ids(const tq::Tokenizer& tokenizer, std::string_view text) {
  for (const bool special : {true, false}) {
    for (const std::int32_t id : tokenizer.encode(text, special)) require(id >= 0);
  }
  for (const std::int32_t id : tokenizer.encode(text, false)) {
    require(id < tokenizer.vocabulary_size() && tokenizer.piece(id).has_value());
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view input(reinterpret_cast<const char*>(data), size);
  const std::size_t end = input.find('\0');
  if (end == std::string_view::npos) return 0;
  try {
    const tq::Tokenizer tokenizer = tq::Tokenizer::parse(input.substr(0, end), "", "input");
    check_ids(tokenizer, "a b\n12 \xc3\xa9 Hello");
    check_ids(tokenizer, input.substr(end + 1));
  } catch (const tq::Error& error) {
    require(std::strchr(error.what(), '\n') == nullptr);
  }
  return 0;
}
