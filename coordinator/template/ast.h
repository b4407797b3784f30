#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "coordinator/template/value.h"

// The syntax tree of a template. Immutable once parsed. Its height is at most parse_depth_max.

namespace skein::jinja {

struct Expr;
struct Stmt;
using ExprPtr = std::unique_ptr<Expr>;
using Body = std::vector<Stmt>;

// (a, b, name=c, *star, **double_star)
struct Arguments {
  std::vector<ExprPtr> positional;
  std::vector<std::pair<std::string_view, ExprPtr>> keywords;
  ExprPtr star, double_star;  // or null
};

enum class Operator : uint8_t {
  kAdd,
  kSubtract,
  kMultiply,
  kDivide,
  kFloorDivide,
  kModulo,
  kPower,
  kEqual,
  kNotEqual,
  kLess,
  kLessEqual,
  kGreater,
  kGreaterEqual,
  kIn,
  kNotIn,
};

struct Expr {
  enum class Kind : uint8_t {
    kConst,  // constant
    kName,   // symbol
    kTuple,
    kList,       // children
    kDict,       // children: key, value, key, value, ...
    kAttribute,  // children[0] . text
    kItem,       // children[0] [ children[1] ]
    kSlice,   // children[0] [ children[1] : children[2] : children[3] ], the last three may be null
    kCall,    // children[0] (arguments)
    kFilter,  // children[0], null in a filter block | text(arguments)
    kTest,    // children[0] is text(arguments)
    kNot,
    kNegate,
    kPlus,  // children[0]
    kAnd,
    kOr,
    kConcat,              // children, two or more
    kArithmetic,          // children[0] operators[0] children[1] ..., from left to right
    kCompare,             // the same as a chain of comparisons
    kConditional,         // children: then, test, else or null
    kNamespaceAttribute,  // symbol . text, as a target of set
  };
  Kind kind = Kind::kConst;
  int line = 0;
  int height = 1;
  int symbol = -1;  // kFilter, kTest: index in the table of filters or tests, or -1 if there is
                    // none of that name
  Value constant;
  std::string_view text;
  std::vector<ExprPtr> children;
  std::vector<Operator> operators;
  Arguments arguments;
};

// A body with variables of its own.
struct Frame {
  Body body;
  std::vector<int>
      unset;  // symbols that are undefined in it until it sets them, even if they were given
};

struct MacroDefinition {
  std::string_view name;
  std::vector<int> parameters;  // symbols
  std::vector<std::string_view> parameter_names;
  std::vector<ExprPtr> defaults;  // of the last parameters
  Frame frame;
  bool uses_caller = false, uses_varargs = false, uses_kwargs = false;
};

struct Stmt {
  enum class Kind : uint8_t {
    kText,      // text
    kPrint,     // value
    kIf,        // conditions[i] ? bodies[i]; one more body is the else branch
    kFor,       // target in value if filter: frames[0], else frames[1]
    kSet,       // target = value
    kSetBlock,  // target = frames[0] through filter, which may be null
    kMacro,     // macro
    kCall,      // value is the call, macro the caller
    kFilter,    // frames[0] through filter
    kWith,      // targets[i] = conditions[i] for frames[0]
    kScope,     // frames[0]
    kBreak,
    kContinue,
  };
  Kind kind = Kind::kText;
  int line = 0;
  int symbol = -1;  // kMacro: its name
  std::string_view text{};
  ExprPtr target{}, value{}, filter{};
  std::vector<ExprPtr> targets{}, conditions{};
  std::vector<Body> bodies{};
  std::vector<Frame> frames{};
  std::unique_ptr<MacroDefinition> macro{};
};

// Names of variables as small numbers.
class Symbols {
 public:
  int intern(std::string_view name) {
    const auto [at, added] = ids_.try_emplace(std::string(name), static_cast<int>(names_.size()));
    if (added) names_.push_back(at->first);
    return at->second;
  }
  std::string_view name(int id) const { return names_[id]; }
  int size() const { return static_cast<int>(names_.size()); }

 private:
  std::unordered_map<std::string, int> ids_;
  std::vector<std::string_view> names_;  // the keys of ids_ stay where they are
};

struct SyntaxTree {
  std::string source;               // normalised; tokens point into it
  std::deque<std::string> strings;  // decoded literals
  Symbols symbols;
  int loop = -1, caller = -1, varargs = -1, kwargs = -1;  // symbols of the special names
  Frame frame;
};

}  // namespace skein::jinja
