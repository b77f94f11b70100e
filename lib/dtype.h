// Element types, as safetensors names them.
#pragma once

#include <cstddef>
#include <optional>
#include <string_view>

namespace tq {

enum class DType {
  kBool, kU8, kI8, kF8E4M3, kF8E5M2, kI16, kU16, kF16, kBf16, kI32, kU32, kF32, kI64, kU64, kF64
};

namespace detail {
struct DTypeRow {
  DType dtype;
  std::string_view name;
  std::size_t bytes;
};
inline constexpr DTypeRow kDTypes[] = {
    {DType::kBool, "BOOL", 1},  {DType::kU8, "U8", 1},   {DType::kI8, "I8", 1},
    {DType::kF8E4M3, "F8_E4M3", 1}, {DType::kF8E5M2, "F8_E5M2", 1},
    {DType::kI16, "I16", 2},    {DType::kU16, "U16", 2}, {DType::kF16, "F16", 2},
    {DType::kBf16, "BF16", 2},  {DType::kI32, "I32", 4}, {DType::kU32, "U32", 4},
    {DType::kF32, "F32", 4},    {DType::kI64, "I64", 8}, {DType::kU64, "U64", 8},
    {DType::kF64, "F64", 8},
};
}  // namespace detail

/// Bytes of one element.
constexpr std::size_t size_of(DType dtype) {
  return detail::kDTypes[static_cast<int>(dtype)].bytes;
}

/// The name that a safetensors header uses, such as "BF16".
constexpr std::string_view name_of(DType dtype) {
  return detail::kDTypes[static_cast<int>(dtype)].name;
}

/// The type that a safetensors header names; nothing for a name that tq does not know.
constexpr std::optional<DType> parse_dtype(std::string_view name) {
  for (const detail::DTypeRow& row : detail::kDTypes) {
    if (row.name == name) return row.dtype;
  }
  return std::nullopt;
}

}  // namespace tq
