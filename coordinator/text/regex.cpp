#include "coordinator/text/regex.h"

#include <algorithm>
#include <limits>
#include <optional>
#include <string>

#include "coordinator/text/regex_syntax.h"
#include "coordinator/text/utf8.h"
#include "model/quoted.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

namespace skein::text {
namespace {

constexpr size_t kPatternBytesMax = 16 << 10;
constexpr uint32_t kNestingMax = 50;
constexpr uint32_t kStepsMin = 1'000'000;  // of one match, and this many times the text's bytes:
constexpr uint32_t kStepsPerByte = 16;
constexpr uint32_t kHeapKibMax = 256 << 10;
constexpr size_t kJitStackMin = 32 << 10;
constexpr size_t kJitStackMax = 64 << 20;  // address space; pages are taken as they are needed

template <auto free_function>
struct Free {
  template <typename T>
  void operator()(T* object) const {
    free_function(object);
  }
};
template <typename T, auto free_function>
using Owned = std::unique_ptr<T, Free<free_function>>;

using CompileContext = Owned<pcre2_compile_context, pcre2_compile_context_free>;
using CompiledCode = Owned<pcre2_code, pcre2_code_free>;
using MatchContext = Owned<pcre2_match_context, pcre2_match_context_free>;
using MatchData = Owned<pcre2_match_data, pcre2_match_data_free>;
using JitStack = Owned<pcre2_jit_stack, pcre2_jit_stack_free>;

std::string error_text(int error) {
  PCRE2_UCHAR buffer[256] = {};
  pcre2_get_error_message(error, buffer, sizeof buffer);
  return reinterpret_cast<const char*>(buffer);
}

}  // namespace

struct Regex::Code {
  CompiledCode compiled;
};

Regex::Regex(std::unique_ptr<Code> code) : code_(std::move(code)) {}
Regex::Regex(Regex&&) noexcept = default;
Regex& Regex::operator=(Regex&&) noexcept = default;
Regex::~Regex() = default;

Result<Regex> Regex::compile(std::string_view pattern) {
  if (pattern.size() > kPatternBytesMax) {
    return unsupported("a regular expression of " + std::to_string(pattern.size()) +
                       " bytes is over the limit of " + std::to_string(kPatternBytesMax));
  }
  ASSIGN_OR_RETURN(const std::string translated, pcre2_pattern(pattern));
  const CompileContext context(pcre2_compile_context_create(nullptr));
  CHECK(context != nullptr);
  pcre2_set_newline(context.get(), PCRE2_NEWLINE_LF);
  pcre2_set_parens_nest_limit(context.get(), kNestingMax);
  constexpr uint32_t kOptions =
      PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NO_AUTO_CAPTURE | PCRE2_NEVER_BACKSLASH_C;
  int error = 0;
  PCRE2_SIZE offset = 0;
  CompiledCode compiled(pcre2_compile(reinterpret_cast<PCRE2_SPTR>(translated.data()),
                                      translated.size(), kOptions, &error, &offset, context.get()));
  if (compiled == nullptr) {
    return unsupported("the regular expression " + quoted(pattern) +
                       " does not compile: " + error_text(error));
  }
  // Without a just-in-time compiler the matcher interprets: slower, the same matches.
  pcre2_jit_compile(compiled.get(), PCRE2_JIT_COMPLETE);
  return Regex(std::make_unique<Code>(Code{std::move(compiled)}));
}

struct Regex::Search::State {
  const pcre2_code* code;
  MatchData data;
  MatchContext context;
  JitStack stack;

  // Whether `text` matches at or behind `from`.
  Result<std::optional<Range>> next(std::string_view text, size_t from) {
    int count = match(text, from);
    if (count == PCRE2_ERROR_JIT_STACKLIMIT && stack == nullptr) {
      stack.reset(pcre2_jit_stack_create(kJitStackMin, kJitStackMax, nullptr));
      pcre2_jit_stack_assign(context.get(), nullptr, stack.get());
      count = match(text, from);
    }
    if (count == PCRE2_ERROR_NOMATCH) return std::optional<Range>();
    if (count < 0) {
      return resource_exhausted("a regular expression of the tokenizer gave up on this text (" +
                                error_text(count) + ")");
    }
    const PCRE2_SIZE* offsets = pcre2_get_ovector_pointer(data.get());
    return std::optional<Range>(
        {static_cast<uint32_t>(offsets[0]), static_cast<uint32_t>(offsets[1])});
  }

  int match(std::string_view text, size_t from) {
    return pcre2_match(code, reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(), from,
                       PCRE2_NO_UTF_CHECK, data.get(), context.get());
  }
};

Regex::Search::Search(const Regex& regex)
    : state_(std::make_unique<State>(State{
          regex.code_->compiled.get(),
          MatchData(pcre2_match_data_create_from_pattern(regex.code_->compiled.get(), nullptr)),
          MatchContext(pcre2_match_context_create(nullptr)), nullptr})) {
  CHECK(state_->data != nullptr && state_->context != nullptr);
  pcre2_set_heap_limit(state_->context.get(), kHeapKibMax);
}
Regex::Search::Search(Search&&) noexcept = default;
Regex::Search::~Search() = default;

Status Regex::Search::all(std::string_view text, std::vector<Range>* matches) {
  matches->clear();
  CHECK_LT(text.size(), size_t{std::numeric_limits<uint32_t>::max()});
  const uint64_t steps = uint64_t{kStepsMin} + uint64_t{kStepsPerByte} * text.size();
  pcre2_set_match_limit(state_->context.get(), static_cast<uint32_t>(std::min<uint64_t>(
                                                   steps, std::numeric_limits<uint32_t>::max())));
  size_t from = 0;
  while (from <= text.size()) {
    ASSIGN_OR_RETURN(const std::optional<Range> match, state_->next(text, from));
    if (!match) break;
    const bool empty = match->begin == match->end;
    if (empty && !matches->empty() && matches->back().end == match->end) {
      from = match->end < text.size() ? match->end + character_length(text[match->end])
                                      : text.size() + 1;
      continue;
    }
    matches->push_back(*match);
    from = match->end;
  }
  return {};
}

}  // namespace skein::text
