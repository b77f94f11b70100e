#include "lib/model/tokenizer/regex.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <fmt/format.h>
#include <pcre2.h>

#include <new>
#include <optional>

#include "lib/error.h"
#include "lib/io/safetensors_header.h"
#include "lib/model/tokenizer/pattern.h"
#include "lib/model/tokenizer/unicode.h"

namespace tq::text {
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
using CodePointer = std::unique_ptr<pcre2_code, Release<pcre2_code_free>>;
using CompileContext = std::unique_ptr<pcre2_compile_context, Release<pcre2_compile_context_free>>;

std::string describe(int error) {
  PCRE2_UCHAR text[256] = {};
  pcre2_get_error_message(error, text, sizeof(text));
  return reinterpret_cast<const char*>(text);
}

/// What a thread needs to match; made once a thread, for it costs more than most matches.
struct Workspace {
  std::unique_ptr<pcre2_match_data, Release<pcre2_match_data_free>> match{
      pcre2_match_data_create(1, nullptr)};
  std::unique_ptr<pcre2_match_context, Release<pcre2_match_context_free>> context{
      pcre2_match_context_create(nullptr)};
  std::unique_ptr<pcre2_jit_stack, Release<pcre2_jit_stack_free>> stack{
      pcre2_jit_stack_create(kSmallestJitStack, kLargestJitStack, nullptr)};
  Workspace() {
    if (!match || !context) throw std::bad_alloc();
    pcre2_jit_stack_assign(context.get(), nullptr, stack.get());
  }
};

}  // namespace

struct Regex::Code {
  CodePointer code;
  std::string pattern;
  std::string where;

  /// The first match that begins at `from` or later.
  std::optional<Span> find(std::string_view text, std::size_t from) const {
    static thread_local Workspace workspace;
    const int found =
        pcre2_match(code.get(), reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(), from,
                    PCRE2_NO_UTF_CHECK, workspace.match.get(), workspace.context.get());
    if (found == PCRE2_ERROR_NOMATCH) return std::nullopt;
    if (found < 0) {
      throw Error(
          fmt::format("{}: the regular expression {} cannot be matched at byte offset {} of a text "
                      "of {} bytes: {}; "
                      "shorten the text",
                      where, quote_name(pattern), from, text.size(), describe(found)));
    }
    const PCRE2_SIZE* ends = pcre2_get_ovector_pointer(workspace.match.get());
    return Span{ends[0], ends[1], true};
  }
};

Regex Regex::compile(std::string_view pattern, const std::string& where) {
  const std::string translated = translate_pattern(pattern, where);
  const CompileContext context(pcre2_compile_context_create(nullptr));
  if (!context) throw std::bad_alloc();
  pcre2_set_newline(context.get(), PCRE2_NEWLINE_LF);
  int error = 0;
  PCRE2_SIZE offset = 0;
  CodePointer code(pcre2_compile(reinterpret_cast<PCRE2_SPTR>(translated.data()), translated.size(),
                                 PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C,
                                 &error, &offset, context.get()));
  if (!code) {
    throw Error(fmt::format("{}: the regular expression {} is not understood: {}", where,
                            quote_name(pattern), describe(error)));
  }
  pcre2_jit_compile(code.get(), PCRE2_JIT_COMPLETE);  // where there is no JIT, matching interprets
  return Regex(std::make_shared<const Code>(Code{std::move(code), std::string(pattern), where}));
}

std::vector<Span> Regex::split(std::string_view text) const {
  std::vector<Span> spans;
  std::size_t reported = 0;  // spans cover the text up to here
  std::optional<std::size_t> last_end;
  for (std::size_t from = 0; !text.empty() && from <= text.size();) {
    const std::optional<Span> match = code_->find(text, from);
    if (!match) break;
    if (match->begin == match->end && last_end == match->end) {
      from += from < text.size() ? decode_at(text, from).bytes : 1;
      continue;
    }
    if (match->begin > reported) spans.push_back({reported, match->begin, false});
    spans.push_back(*match);
    reported = match->end;
    from = match->end;
    last_end = match->end;
  }
  if (reported < text.size()) spans.push_back({reported, text.size(), false});
  return spans;
}

}  // namespace tq::text
