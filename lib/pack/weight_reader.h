// Tensors of a checkpoint as float32 rows.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "lib/io/checkpoint.h"

namespace tq {

class WeightReader {
 public:
  static WeightReader open(const std::string& dir);
  struct Tensor {
    std::string name;
    std::vector<std::int64_t> shape;
    DType dtype;
    int bits = 0;
  };
  const std::vector<Tensor>& tensors() const { return tensors_; }
  const Tensor* find(std::string_view name) const;
  /// Row = last dimension. Thread-safe.
  void read_rows(const Tensor& tensor, std::int64_t first_row, std::int64_t rows, float* out) const;

 private:
  explicit WeightReader(Checkpoint checkpoint) : checkpoint_(std::move(checkpoint)) {}
  Checkpoint checkpoint_;
  std::vector<Tensor> tensors_;
  std::map<std::string, std::size_t, std::less<>> index_;
};

}  // namespace tq
