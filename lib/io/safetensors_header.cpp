#include "lib/io/safetensors_header.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <functional>
#include <iterator>
#include <limits>
#include <nlohmann/json.hpp>
#include <numeric>
#include <unordered_set>

#include "lib/error.h"

namespace tq {
namespace {

std::string list_dtypes() {
  std::string names;
  for (const detail::DTypeRow& row : detail::kDTypes) {
    names += fmt::format("{}{}", names.empty() ? "" : ", ", row.name);
  }
  return names;
}

// Walks over the header's text and keeps the place that the parser has reached, for messages.
struct TrackingIterator {
  using iterator_category = std::input_iterator_tag;
  using value_type = char;
  using difference_type = std::ptrdiff_t;
  using pointer = const char*;
  using reference = const char&;

  const char* at;
  const char** reached;

  reference operator*() const { return *at; }
  TrackingIterator& operator++() {
    *reached = ++at;
    return *this;
  }
  TrackingIterator operator++(int) {
    const TrackingIterator before = *this;
    ++*this;
    return before;
  }
  bool operator==(const TrackingIterator& other) const { return at == other.at; }
};

// The header's grammar as a small state machine. What the current state does not expect is refused,
// so nothing nests deeper than a tensor's lists.
class HeaderHandler : public nlohmann::json_sax<nlohmann::json> {
 public:
  HeaderHandler(std::string_view text, std::uint64_t data_bytes, const std::string& where)
      : text_(text), data_bytes_(data_bytes), where_(where), reached_(text.data()) {}

  SafetensorsHeader run(std::size_t json_length) {
    const TrackingIterator begin{text_.data(), &reached_};
    const TrackingIterator end{text_.data() + json_length, &reached_};
    nlohmann::json::sax_parse(begin, end, this);
    return std::move(parsed_);
  }

  bool start_object(std::size_t) override {
    if (state_ == State::kOutside) {
      state_ = State::kTop;
    } else if (state_ == State::kTop) {
      state_ = name_ == kMetadataName ? State::kMetadata : State::kTensor;
    } else {
      refuse();
    }
    return true;
  }

  bool key(std::string& key) override {
    if (state_ == State::kTop) {
      name_ = key;
      if (!names_.insert(key).second) fail(fmt::format("{} occurs twice", quote_name(key)));
      dtype_.reset();
      shape_.reset();
      offsets_.reset();
    } else if (state_ == State::kMetadata) {
      if (parsed_.metadata.contains(key))
        fail(fmt::format("metadata key {} occurs twice", quote_name(key)));
      field_ = key;
    } else {
      if (key != "dtype" && key != "shape" && key != "data_offsets") {
        fail(fmt::format("tensor {} has an unknown field {}", quote_name(name_), quote_name(key)));
      }
      if ((key == "dtype" && dtype_) || (key == "shape" && shape_) ||
          (key == "data_offsets" && offsets_)) {
        fail(fmt::format("tensor {} has the field {} twice", quote_name(name_), key));
      }
      field_ = key;
    }
    return true;
  }

  bool end_object() override {
    if (state_ == State::kTensor) finish_tensor();
    state_ = state_ == State::kTop ? State::kOutside : State::kTop;
    return true;
  }

  bool start_array(std::size_t) override {
    if (state_ != State::kTensor || field_ == "dtype") refuse();
    state_ = field_ == "shape" ? State::kShape : State::kOffsets;
    if (state_ == State::kShape) shape_.emplace();
    if (state_ == State::kOffsets) offsets_.emplace();
    return true;
  }

  bool end_array() override {
    state_ = State::kTensor;
    return true;
  }

  bool string(std::string& value) override {
    if (state_ == State::kMetadata) {
      parsed_.metadata.emplace(field_, std::move(value));
    } else if (state_ == State::kTensor && field_ == "dtype") {
      dtype_ = parse_dtype(value);
      if (!dtype_) {
        fail(fmt::format("tensor {} has the unknown dtype {}; tq knows {}", quote_name(name_),
                         quote_name(value), list_dtypes()));
      }
    } else {
      refuse();
    }
    return true;
  }

  bool number_unsigned(std::uint64_t value) override {
    if (state_ == State::kOffsets) {
      offsets_->push_back(value);
    } else if (state_ == State::kShape && value <= std::numeric_limits<std::int64_t>::max()) {
      shape_->push_back(static_cast<std::int64_t>(value));
    } else {
      refuse();
    }
    return true;
  }

  bool null() override { return refuse(); }
  bool boolean(bool) override { return refuse(); }
  bool number_integer(std::int64_t) override { return refuse(); }
  bool number_float(double, const std::string&) override { return refuse(); }
  bool binary(nlohmann::json::binary_t&) override { return refuse(); }

  bool parse_error(std::size_t, const std::string&, const nlohmann::json::exception&) override {
    fail("the header is not valid JSON in UTF-8");
  }

  // From here on (if it returns) the tensors cover the data exactly.
  void check_cover(const std::vector<TensorInfo>& tensors) const {
    std::vector<std::size_t> order(tensors.size());
    std::iota(order.begin(), order.end(), std::size_t{0});
    const auto place = [&](std::size_t i) {
      return std::pair(tensors[i].offset, tensors[i].bytes);
    };
    std::sort(order.begin(), order.end(),
              [&](std::size_t a, std::size_t b) { return place(a) < place(b); });
    std::uint64_t covered = 8 + text_.size();
    for (const std::size_t i : order) {
      const TensorInfo& tensor = tensors[i];
      if (tensor.offset != covered) {
        throw Error(fmt::format(
            "{}: tensor {} begins at byte offset {}, but the tensors before it end at {}: {}; the "
            "file is broken, get it again",
            where_, quote_name(tensor.name), tensor.offset, covered,
            tensor.offset < covered ? "they overlap" : "there is a hole"));
      }
      covered += tensor.bytes;
    }
    const std::uint64_t file_bytes = 8 + text_.size() + data_bytes_;
    if (covered != file_bytes) {
      throw Error(fmt::format(
          "{}: {} bytes follow the last tensor, which ends at byte offset {}; the file is broken, "
          "get it again",
          where_, file_bytes - covered, covered));
    }
  }

 private:
  enum class State { kOutside, kTop, kMetadata, kTensor, kShape, kOffsets };

  // Byte offset in the file of the last character that the parser has taken.
  [[noreturn]] void fail(const std::string& what) const {
    const auto taken = static_cast<std::size_t>(reached_ - text_.data());
    throw Error(fmt::format("{}: {} (header, at byte offset {})", where_, what,
                            8 + taken - (taken > 0 ? 1 : 0)));
  }

  [[noreturn]] bool refuse() const {
    switch (state_) {
      case State::kOutside:
        fail("the header must be a JSON object");
      case State::kTop:
        fail(fmt::format("{} must be an object", quote_name(name_)));
      case State::kMetadata:
        fail(fmt::format("metadata {} must be a string", quote_name(field_)));
      default:
        break;
    }
    const std::string_view wanted = field_ == "dtype"          ? "a string"
                                    : state_ == State::kTensor ? "a list of integers"
                                    : field_ == "shape" ? "a list of integers from 0 to 2^63-1"
                                                        : "a list of integers from 0 to 2^64-1";
    fail(fmt::format("tensor {}: {} must be {}", quote_name(name_), field_, wanted));
  }

  void finish_tensor() {
    const std::string name = quote_name(name_);
    if (!dtype_ || !shape_ || !offsets_) {
      fail(fmt::format("tensor {} lacks {}", name,
                       !dtype_   ? "dtype"
                       : !shape_ ? "shape"
                                 : "data_offsets"));
    }
    if (offsets_->size() != 2)
      fail(fmt::format("tensor {}: data_offsets must be [begin, end]", name));
    const std::uint64_t begin = (*offsets_)[0];
    const std::uint64_t end = (*offsets_)[1];
    const std::optional<std::uint64_t> bytes = tensor_bytes(*dtype_, *shape_);
    if (!bytes) fail(fmt::format("tensor {}: the product of its shape overflows", name));
    if (begin > end)
      fail(fmt::format("tensor {}: data_offsets [{}, {}] end before they begin", name, begin, end));
    if (end > data_bytes_) {
      fail(
          fmt::format("tensor {} ends at byte {} of the data, but the file has {} bytes of data; "
                      "it may be truncated, "
                      "get it again",
                      name, end, data_bytes_));
    }
    if (end - begin != *bytes) {
      fail(fmt::format("tensor {}: {} [{}] takes {} bytes, but data_offsets [{}, {}] hold {}", name,
                       name_of(*dtype_), fmt::join(*shape_, ", "), *bytes, begin, end,
                       end - begin));
    }
    parsed_.tensors.push_back(
        {name_, *dtype_, std::move(*shape_), 8 + text_.size() + begin, *bytes});
  }

  std::string_view text_;
  std::uint64_t data_bytes_;
  const std::string& where_;
  const char* reached_;
  State state_ = State::kOutside;
  std::string name_;   // of the member of the top object that is being read
  std::string field_;  // within it
  std::optional<DType> dtype_;
  std::optional<std::vector<std::int64_t>> shape_;
  std::optional<std::vector<std::uint64_t>> offsets_;
  std::unordered_set<std::string> names_;
  SafetensorsHeader parsed_;
};

}  // namespace

std::int64_t TensorInfo::elements() const {
  return std::accumulate(shape.begin(), shape.end(), std::int64_t{1}, std::multiplies<>());
}

std::optional<std::uint64_t> tensor_bytes(DType dtype, const std::vector<std::int64_t>& shape) {
  auto product = static_cast<std::int64_t>(size_of(dtype));
  bool empty = false;
  for (const std::int64_t dim : shape) {
    if (dim < 0) return std::nullopt;
    if (dim == 0) {
      empty = true;
    } else if (__builtin_mul_overflow(product, dim, &product)) {
      return std::nullopt;
    }
  }
  return empty ? 0 : static_cast<std::uint64_t>(product);
}

std::string quote_name(std::string_view text) {
  constexpr std::size_t kMost = 100;
  const std::string cut =
      text.size() > kMost ? std::string(text.substr(0, kMost)) + "..." : std::string(text);
  std::string quoted =
      nlohmann::json(cut).dump(-1, ' ', true, nlohmann::json::error_handler_t::replace);
  for (std::size_t at = quoted.find('\x7f'); at != std::string::npos;
       at = quoted.find('\x7f', at)) {
    quoted.replace(at, 1, "\\u007f");
  }
  return quoted;
}

SafetensorsHeader parse_safetensors_header(std::string_view header_json, std::uint64_t data_bytes,
                                           const std::string& where) {
  if (!header_json.starts_with('{')) {
    throw Error(fmt::format(
        "{}: is not a safetensors file: the header at byte offset 8 does not start with '{{'",
        where));
  }
  // The JSON parser takes a NUL for the end of its input and any white space for padding: both are
  // settled here.
  const std::size_t json_length = header_json.find_last_not_of(' ') + 1;
  if (header_json[json_length - 1] != '}') {
    throw Error(
        fmt::format("{}: the header does not end with '}}' and spaces (header, at byte offset {})",
                    where, 8 + json_length - 1));
  }
  if (const std::size_t nul = header_json.find('\0'); nul != std::string_view::npos) {
    throw Error(
        fmt::format("{}: the header contains a NUL (header, at byte offset {})", where, 8 + nul));
  }
  if (data_bytes > std::numeric_limits<std::uint64_t>::max() / 2) {
    throw Error(
        fmt::format("{}: {} bytes of data are more than a file can hold", where, data_bytes));
  }
  HeaderHandler handler(header_json, data_bytes, where);
  SafetensorsHeader parsed = handler.run(json_length);
  handler.check_cover(parsed.tensors);
  return parsed;
}

}  // namespace tq
