// What a model reads: text from a file or from stdin, or token ids for models without a tokenizer.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace tq {

/// The whole of a text file, as it is (line ends, a byte order mark and a last newline stay); "-"
/// is stdin. Error that names the file for one that cannot be read, has more than 256 MiB, or is
/// not UTF-8 (with the byte offset).
std::string read_text(const std::string& path);

/// Token ids from a text file, "-" for stdin: integers separated by white space, or a JSON array of
/// integers. Error that names file and element unless each is from 0 to 2^31-1 and there is at
/// least one. Whether the model has them is for the caller to check.
std::vector<std::int32_t> read_token_ids(const std::string& path);

}  // namespace tq
