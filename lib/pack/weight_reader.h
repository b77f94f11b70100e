// The tensors of a model as float32 rows, whatever they are stored as: BF16, F16 or F32 of an ordinary checkpoint, or the
// codes and norms of a native TQ3 checkpoint, tq's own or the published converter's.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "lib/backend.h"
#include "lib/io/tq3_checkpoint.h"
#include "lib/parallel.h"

namespace tq {

/// Move-only; reading is thread-safe. The backend must outlive it.
class WeightReader {
 public:
  /// Opens a directory: native TQ3 if it has a tq_config.json, else an ordinary checkpoint. Error as Checkpoint::open(),
  /// Tq3Checkpoint::open(), and restore_shape() (lib/pack/weight_shapes.h) where the checkpoint does not tell its shapes.
  /// `seed` in place of the rotation's: for negative controls alone.
  static WeightReader open(const std::string& dir, const Backend& backend, std::optional<std::uint32_t> seed = {});

  /// One safetensors file of any name and content, as it is stored. Error as SafetensorsFile::open().
  static WeightReader open_file(const std::string& path, const Backend& backend);

  struct Tensor {
    std::string name;                 ///< of the model: without .tq_packed
    std::vector<std::int64_t> shape;  ///< of the model, without padding
    DType dtype;                      ///< of the model where that is known, else as stored; BF16 for quantized ones
    int bits = 0;                     ///< of a code; 0: kept as it is
    std::uint64_t stored_bytes = 0;
    const Checkpoint::Entry* kept = nullptr;  ///< of a tensor that is kept; its type is the stored one
    const Tq3Tensor* quantized = nullptr;

    /// A row is the last dimension; a vector or a scalar is one row.
    std::int64_t rows() const;
    std::int64_t row_length() const { return shape.empty() ? 1 : shape.back(); }
    std::int64_t values() const { return rows() * row_length(); }
    /// True for BF16, F16, F32 and quantized tensors: what can be read as float32.
    bool is_readable() const;
  };

  const Backend& backend() const { return *backend_; }
  const std::string& dir() const { return checkpoint().dir(); }
  const Checkpoint& checkpoint() const { return tq3_ ? tq3_->checkpoint() : *plain_; }
  /// nullptr for an ordinary checkpoint.
  const Tq3Checkpoint* tq3() const { return tq3_ ? &*tq3_ : nullptr; }

  /// In the order of the files.
  const std::vector<Tensor>& tensors() const { return tensors_; }
  /// nullptr if there is none of that name.
  const Tensor* find(std::string_view name) const;
  /// The file that a message about this tensor names.
  const std::string& path_of(const Tensor& tensor) const;

  /// rows first_row .. first_row + rows - 1 -> out [rows][row_length()]. Works in pieces of at most 2 MB. Error, with file,
  /// tensor and index: rows that are not there, a type that is no float of 16 or 32 bits, a norm that is negative, NaN or
  /// infinite, and those of reading.
  void read_rows(const Tensor& tensor, std::int64_t first_row, std::int64_t rows, float* out) const;
  /// The same for values of the whole tensor, row-major, wherever in a row they begin and end.
  void read_values(const Tensor& tensor, std::int64_t first, std::int64_t count, float* out) const;

  /// Rows of a tensor that is kept, in the type it is stored in: out [rows][row_length()]. Error as read_rows().
  void read_stored(const Tensor& tensor, std::int64_t first_row, std::int64_t rows, std::byte* out) const;
  /// Rows of a quantized tensor as they are stored: line r * groups + g is group g of row r; codes [rows * groups][code_bytes of
  /// codec_of()], norms [rows * groups]. Error as read_rows().
  void read_coded(const Tensor& tensor, std::int64_t first_row, std::int64_t rows, std::uint8_t* codes, float* norms) const;
  /// What decodes a quantized tensor: with the other seed, where one was asked for.
  const Codec& codec_of(const Tensor& tensor) const;
  /// No two readers of a process have the same, whatever becomes of them: for caches of what was read.
  std::uint64_t id() const { return id_; }

  /// Reads every tensor and compares its hash with the one in tq_config.json; does nothing where there are none. Error that
  /// names file and tensor of the first that differs. `progress` gets stored bytes.
  void check_hashes(int threads, const Progress& progress = {}) const;
  /// True if the checkpoint carries hashes.
  bool has_hashes() const { return tq3_ && tq3_->config().by_tq; }

 private:
  explicit WeightReader(const Backend& backend);
  void index_tensors();
  void list_plain();
  void list_tq3(std::optional<std::uint32_t> seed);
  void read_kept(const Tensor& tensor, std::int64_t first, std::int64_t count, float* out) const;
  void read_quantized(const Tensor& tensor, std::int64_t first, std::int64_t count, float* out) const;
  void check_hash(const Checkpoint::Entry& entry, const std::string& expected, const Progress& progress) const;
  void check_norms(const Tensor& tensor, std::int64_t first_line, std::span<const float> norms) const;
  void check_rows(const Tensor& tensor, std::int64_t first_row, std::int64_t rows) const;
  void read_lines(const Tensor& tensor, std::int64_t line, std::int64_t lines, std::uint8_t* codes, float* norms) const;

  std::uint64_t id_;
  const Backend* backend_;
  std::optional<Checkpoint> plain_;
  std::optional<Tq3Checkpoint> tq3_;
  std::vector<Tensor> tensors_;
  std::unordered_map<const Codec*, Codec> reseeded_;  ///< with the other seed; empty where none was asked for
  std::unordered_map<std::string, std::size_t> index_;
};

}  // namespace tq
