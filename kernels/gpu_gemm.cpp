#include "kernels/gpu_gemm.h"

#include <cublasLt.h>
#include <dlfcn.h>
#include <fmt/format.h>

#include <algorithm>
#include <string>

#include "kernels/cuda_check.h"
#include "kernels/gpu_memory.h"

namespace tq {
namespace {

#define TQ_TEXT_OF(x) #x
#define TQ_TEXT(x) TQ_TEXT_OF(x)
constexpr const char* kMajor = TQ_TEXT(CUBLAS_VER_MAJOR);

/// What NVIDIA advises for Hopper; the most that older devices use.
constexpr std::size_t kWorkspaceBytes = std::size_t{32} << 20;

/// The functions of cuBLASLt that are used.
struct CublasLt {
  decltype(&cublasLtCreate) create;
  decltype(&cublasLtDestroy) destroy;
  decltype(&cublasLtMatmul) matmul;
  decltype(&cublasLtMatmulAlgoGetHeuristic) choose;
  decltype(&cublasLtMatmulDescCreate) desc_create;
  decltype(&cublasLtMatmulDescDestroy) desc_destroy;
  decltype(&cublasLtMatmulDescSetAttribute) desc_set;
  decltype(&cublasLtMatrixLayoutCreate) layout_create;
  decltype(&cublasLtMatrixLayoutDestroy) layout_destroy;
  decltype(&cublasLtMatrixLayoutSetAttribute) layout_set;
  decltype(&cublasLtMatmulPreferenceCreate) preference_create;
  decltype(&cublasLtMatmulPreferenceDestroy) preference_destroy;
  decltype(&cublasLtMatmulPreferenceSetAttribute) preference_set;
  decltype(&cublasLtGetStatusString) describe;
};

void* open_cublas() {
  const std::string name = std::string("libcublasLt.so.") + kMajor;
  std::string reasons;
  for (const std::string& path : {name, "/usr/local/cuda/lib64/" + name, std::string("libcublasLt.so")}) {
    if (void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL)) return library;
    const char* reason = dlerror();
    reasons += fmt::format("{}{}", reasons.empty() ? "" : "; ", reason != nullptr ? reason : path.c_str());
  }
  throw Error(fmt::format("the forward pass on a GPU needs cuBLASLt of CUDA {}, which cannot be opened ({}); install the toolkit's "
                          "libcublas, or 'pip install nvidia-cublas' and name its lib folder in LD_LIBRARY_PATH, or use --device cpu",
                          kMajor, reasons));
}

template <class F>
void find(void* library, const char* name, F& function) {
  function = reinterpret_cast<F>(dlsym(library, name));
  if (function == nullptr) throw Error(fmt::format("cuBLASLt: has no {}; install that of CUDA {}", name, kMajor));
}

CublasLt load_cublas() {
  void* library = open_cublas();  // stays open: it has threads and device code of its own
  CublasLt t;
  find(library, "cublasLtCreate", t.create);
  find(library, "cublasLtDestroy", t.destroy);
  find(library, "cublasLtMatmul", t.matmul);
  find(library, "cublasLtMatmulAlgoGetHeuristic", t.choose);
  find(library, "cublasLtMatmulDescCreate", t.desc_create);
  find(library, "cublasLtMatmulDescDestroy", t.desc_destroy);
  find(library, "cublasLtMatmulDescSetAttribute", t.desc_set);
  find(library, "cublasLtMatrixLayoutCreate", t.layout_create);
  find(library, "cublasLtMatrixLayoutDestroy", t.layout_destroy);
  find(library, "cublasLtMatrixLayoutSetAttribute", t.layout_set);
  find(library, "cublasLtMatmulPreferenceCreate", t.preference_create);
  find(library, "cublasLtMatmulPreferenceDestroy", t.preference_destroy);
  find(library, "cublasLtMatmulPreferenceSetAttribute", t.preference_set);
  find(library, "cublasLtGetStatusString", t.describe);
  return t;
}

const CublasLt& cublas() {
  static const CublasLt table = load_cublas();
  return table;
}

void check(cublasStatus_t status, const char* doing, const GemmArgs* args = nullptr) {
  if (status == CUBLAS_STATUS_SUCCESS) return;
  std::string shape;
  if (args != nullptr) shape = fmt::format(" of {} x {} x {}, {} times", args->tokens, args->columns, args->depth, args->batch);
  throw Error(fmt::format("cuBLASLt, {}{}: {}", doing, shape, cublas().describe(status)));
}

/// Descriptors that are destroyed in the end.
template <class T>
struct Owned {
  T value = nullptr;
  cublasStatus_t (*destroy)(T);
  ~Owned() {
    if (value != nullptr) destroy(value);
  }
};

template <class Set, class T, class Attribute, class Value>
void set(Set function, T object, Attribute attribute, Value value) {
  check(function(object, attribute, &value, sizeof(value)), "describing a product");
}

/// The largest power of two, up to 256, that divides every place of an operand.
std::int64_t alignment_of(const void* first, std::int64_t stride, std::int64_t step, std::int64_t element) {
  const auto bits = static_cast<std::int64_t>(reinterpret_cast<std::uintptr_t>(first)) | stride * element | step * element | 256;
  return bits & -bits;
}

/// What one product is made of; cuBLASLt's matrices are column-major, so rows here are columns there.
class Product {
 public:
  explicit Product(const GemmArgs& a) {
    const cudaDataType_t type = a.dtype == DType::kBf16 ? CUDA_R_16BF : CUDA_R_32F;
    check(cublas().desc_create(&desc_.value, CUBLAS_COMPUTE_32F, CUDA_R_32F), "describing a product");
    set(cublas().desc_set, desc_.value, CUBLASLT_MATMUL_DESC_TRANSA, a.by_columns ? CUBLAS_OP_N : CUBLAS_OP_T);
    const std::int64_t w_rows = a.by_columns ? a.columns : a.depth, w_columns = a.by_columns ? a.depth : a.columns;
    describe(w_, type, w_rows, w_columns, a.w_stride, a.batch, a.w_step);
    describe(x_, type, a.depth, a.tokens, a.x_stride, a.batch, a.x_step);
    describe(y_, CUDA_R_32F, a.columns, a.tokens, a.y_stride, a.batch, a.y_step);
  }

  cublasLtMatmulAlgo_t choose(cublasLtHandle_t handle, const GemmKey& key, const GemmArgs& args) const {
    Owned<cublasLtMatmulPreference_t> preference{nullptr, cublas().preference_destroy};
    check(cublas().preference_create(&preference.value), "describing a product");
    const auto prefer = [&](cublasLtMatmulPreferenceAttributes_t attribute, auto value) {
      set(cublas().preference_set, preference.value, attribute, value);
    };
    prefer(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, std::uint64_t{kWorkspaceBytes});
    prefer(CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, std::uint32_t{CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE});  // sums in one order
    prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, static_cast<std::uint32_t>(key[13]));
    prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, static_cast<std::uint32_t>(key[14]));
    prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, static_cast<std::uint32_t>(key[15]));
    prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, static_cast<std::uint32_t>(key[15]));
    cublasLtMatmulHeuristicResult_t found{};
    int count = 0;
    check(cublas().choose(handle, desc_.value, w_.value, x_.value, y_.value, y_.value, preference.value, 1, &found, &count),
          "choosing a kernel for a product", &args);
    if (count == 0) check(CUBLAS_STATUS_NOT_SUPPORTED, "choosing a kernel for a product", &args);
    return found.algo;
  }

  void run(cublasLtHandle_t handle, const GemmArgs& a, const cublasLtMatmulAlgo_t& algo, void* workspace) const {
    const float one = 1, before = a.add ? 1 : 0;
    check(cublas().matmul(handle, desc_.value, &one, a.w, w_.value, a.x, x_.value, &before, a.y, y_.value, a.y, y_.value, &algo,
                          workspace, kWorkspaceBytes, cudaStreamPerThread),
          "starting a product", &a);
  }

 private:
  using Layout = Owned<cublasLtMatrixLayout_t>;

  static void describe(Layout& layout, cudaDataType_t type, std::int64_t rows, std::int64_t columns, std::int64_t stride,
                       std::int64_t batch, std::int64_t step) {
    check(cublas().layout_create(&layout.value, type, static_cast<std::uint64_t>(rows), static_cast<std::uint64_t>(columns), stride),
          "describing a matrix");
    if (batch == 1) return;
    set(cublas().layout_set, layout.value, CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, static_cast<std::int32_t>(batch));
    set(cublas().layout_set, layout.value, CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET, step);
  }

  Owned<cublasLtMatmulDesc_t> desc_{nullptr, cublas().desc_destroy};
  Layout w_{nullptr, cublas().layout_destroy}, x_{nullptr, cublas().layout_destroy}, y_{nullptr, cublas().layout_destroy};
};

}  // namespace

GemmKey key_of(const GemmArgs& a) {
  const std::int64_t element = a.dtype == DType::kBf16 ? 2 : 4;
  return {a.dtype == DType::kBf16, a.tokens, a.columns, a.depth, a.x_stride, a.w_stride, a.y_stride, a.by_columns, a.add,
          a.batch, a.x_step, a.w_step, a.y_step, alignment_of(a.w, a.w_stride, a.w_step, element),
          alignment_of(a.x, a.x_stride, a.x_step, element), alignment_of(a.y, a.y_stride, a.y_step, 4)};
}

struct Gemm::State {
  cublasLtHandle_t handle = nullptr;
  DeviceBuffer workspace;
  std::map<GemmKey, cublasLtMatmulAlgo_t> chosen;

  ~State() {
    if (handle != nullptr) cublas().destroy(handle);
  }
};

Gemm::Gemm() : state_(std::make_unique<State>()) {
  check(cublas().create(&state_->handle), "starting");
  state_->workspace.reserve(static_cast<std::int64_t>(kWorkspaceBytes));
}

Gemm::~Gemm() = default;

void Gemm::multiply(const GemmArgs& args) {
  const GemmKey key = key_of(args);
  const Product product(args);
  auto found = state_->chosen.find(key);
  if (found == state_->chosen.end()) found = state_->chosen.emplace(key, product.choose(state_->handle, key, args)).first;
  product.run(state_->handle, args, found->second, state_->workspace.as<void>());
}

}  // namespace tq
