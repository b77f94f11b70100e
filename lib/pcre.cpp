#include "lib/pcre.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <new>

namespace tq {
namespace {

constexpr std::size_t kSmallestJitStack = 32 << 10;
constexpr std::size_t kLargestJitStack = 16 << 20;

template <auto release>
struct Release {
  template <typename T>
  void operator()(T* object) const {
    release(object);
  }
};
using CompileContext = std::unique_ptr<pcre2_compile_context, Release<pcre2_compile_context_free>>;

std::string describe(int error) {
  PCRE2_UCHAR text[256] = {};
  pcre2_get_error_message(error, text, sizeof(text));
  return reinterpret_cast<const char*>(text);
}

/// What a thread needs to match; made once a thread, for it costs more than most matches.
struct Workspace {
  std::unique_ptr<pcre2_match_data, Release<pcre2_match_data_free>> match{pcre2_match_data_create(1, nullptr)};
  std::unique_ptr<pcre2_match_context, Release<pcre2_match_context_free>> context{pcre2_match_context_create(nullptr)};
  std::unique_ptr<pcre2_jit_stack, Release<pcre2_jit_stack_free>> stack{
      pcre2_jit_stack_create(kSmallestJitStack, kLargestJitStack, nullptr)};
  Workspace() {
    if (!match || !context) throw std::bad_alloc();
    pcre2_jit_stack_assign(context.get(), nullptr, stack.get());
  }
};

}  // namespace

Pcre::Pcre(std::string_view pattern, Dialect dialect) {
  const CompileContext context(pcre2_compile_context_create(nullptr));
  if (!context) throw std::bad_alloc();
  pcre2_set_newline(context.get(), PCRE2_NEWLINE_LF);
  const std::uint32_t lines = dialect == Dialect::kUnicodeLines ? PCRE2_UCP | PCRE2_MULTILINE : 0;
  int error = 0;
  PCRE2_SIZE offset = 0;
  pcre2_code* code = pcre2_compile(reinterpret_cast<PCRE2_SPTR>(pattern.data()), pattern.size(),
                                   PCRE2_UTF | PCRE2_NEVER_BACKSLASH_C | lines, &error, &offset, context.get());
  if (code == nullptr) throw PcreError(describe(error), offset);
  code_ = std::shared_ptr<const void>(code, [code](const void*) { pcre2_code_free(code); });
  pcre2_jit_compile(code, PCRE2_JIT_COMPLETE);  // where there is no JIT, matching interprets
}

std::optional<std::pair<std::size_t, std::size_t>> Pcre::find(std::string_view text, std::size_t from, bool is_valid) const {
  static thread_local Workspace workspace;
  const int found = pcre2_match(static_cast<const pcre2_code*>(code_.get()), reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(),
                                from, is_valid ? PCRE2_NO_UTF_CHECK : 0, workspace.match.get(), workspace.context.get());
  if (found == PCRE2_ERROR_NOMATCH) return std::nullopt;
  if (found < 0) throw PcreError(describe(found), from);
  const PCRE2_SIZE* ends = pcre2_get_ovector_pointer(workspace.match.get());
  return std::pair(ends[0], ends[1]);
}

}  // namespace tq
