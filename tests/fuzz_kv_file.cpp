// Fuzzes the reader of .tq3 files: whatever the bytes, open() and check_payload() return or throw Error.
// The header's hash is put right first, else nearly every input would end there.
#include <sys/mman.h>
#include <unistd.h>

#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "lib/backend.h"
#include "lib/error.h"
#include "lib/io/kv_file.h"

namespace {

void repair_header_hash(std::vector<std::uint8_t>& bytes) {
  std::uint64_t length = 0;
  if (bytes.size() < 8) return;
  std::memcpy(&length, bytes.data(), 8);
  if (length > bytes.size() - 8) return;
  const std::string_view header(reinterpret_cast<const char*>(bytes.data()) + 8, length);
  const std::string field = "\"header_xxh64\":\"";
  const std::size_t found = header.find(field);
  if (found == std::string_view::npos || found + field.size() + 16 > length) return;
  const std::string digits = tq::format_hash(tq::hash_header(header, "fuzz"));
  std::memcpy(bytes.data() + 8 + found + field.size(), digits.data(), digits.size());
}

void read_all(const std::string& path) {
  const tq::KvFile file = tq::KvFile::open(path);
  file.check_payload(1);
  const auto backend = tq::make_cpu_backend("scalar");
  for (const tq::PackedLayer& layer : file.layers()) {
    for (const tq::PackedTensor* tensor : {&layer.k, &layer.v}) {
      const std::int64_t head = tensor->heads - 1;
      tq::decode_head(*backend, *tensor->part_of(head).codec, file.read_head(*tensor, head), tq::Decode::kInnerProduct);
    }
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  std::vector<std::uint8_t> bytes(data, data + size);
  repair_header_hash(bytes);
  const int fd = memfd_create("fuzz", MFD_CLOEXEC);
  if (fd < 0 || write(fd, bytes.data(), bytes.size()) != static_cast<ssize_t>(bytes.size())) return 0;
  try {
    read_all("/proc/self/fd/" + std::to_string(fd));
  } catch (const tq::Error&) {
  }
  close(fd);
  return 0;
}
