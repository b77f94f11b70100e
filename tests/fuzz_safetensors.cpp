// Fuzzes the two parsers that see untrusted bytes first: the safetensors header and the layout of a
// KV dump. The first four bytes of the input are the number of data bytes, the rest is the header.
// What is accepted must keep its promises.
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <set>

#include "lib/error.h"
#include "lib/io/kv_dump.h"

namespace {

void require(bool promise) {
  if (!promise) std::abort();
}

void check_header(const tq::SafetensorsHeader& header, std::uint64_t header_bytes,
                  std::uint64_t data_bytes) {
  std::uint64_t total = 0;
  std::set<std::string> names;
  for (const tq::TensorInfo& tensor : header.tensors) {
    require(names.insert(tensor.name).second);
    require(static_cast<std::uint64_t>(tensor.elements()) * tq::size_of(tensor.dtype) ==
            tensor.bytes);
    require(tensor.offset >= 8 + header_bytes);
    require(tensor.offset + tensor.bytes <= 8 + header_bytes + data_bytes);
    total += tensor.bytes;
  }
  require(total == data_bytes);
}

void check_layout(const tq::KvLayout& layout, std::size_t tensors) {
  std::size_t seen = 0;
  int last = -1;
  for (const tq::KvLayer& layer : layout.layers) {
    require(layer.index > last);
    last = layer.index;
    require(layer.k.heads >= 1 && layer.k.tokens >= 1 && layer.k.head_dim >= 8 &&
            layer.v.head_dim <= 1024);
    require(layer.k.heads * layer.k.tokens * layer.k.head_dim == layer.k.info.elements());
    require(layer.v.heads * layer.v.tokens * layer.v.head_dim == layer.v.info.elements());
    require(!layer.q || layer.q->heads % layer.k.heads == 0);
    seen += layer.q ? 3 : 2;
  }
  require(seen == tensors);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  std::uint32_t data_bytes = 0;
  if (size < sizeof(data_bytes)) return 0;
  std::memcpy(&data_bytes, data, sizeof(data_bytes));
  const std::string_view text(reinterpret_cast<const char*>(data) + sizeof(data_bytes),
                              size - sizeof(data_bytes));
  try {
    const tq::SafetensorsHeader header = tq::parse_safetensors_header(text, data_bytes, "input");
    check_header(header, text.size(), data_bytes);
    check_layout(tq::classify_kv_tensors(header.tensors, header.metadata, "input"),
                 header.tensors.size());
  } catch (const tq::Error& error) {
    require(std::strchr(error.what(), '\n') == nullptr);
  }
  return 0;
}
