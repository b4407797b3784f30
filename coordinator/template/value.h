#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "base/status.h"

// The values of Jinja expressions, with Python's meaning.

namespace skein::jinja {

class Run;
class ForLoop;
struct MacroDefinition;
struct Scope;
struct Value;

enum class Kind : uint8_t {
  kUndefined,
  kNone,
  kBool,
  kInt,
  kFloat,
  kString,
  kList,
  kTuple,
  kDict,
  kView,  // of a dict: keys(), values(), items()
  kRange,
  kIterator,  // what lazy filters return: can be walked once
  kNamespace,
  kLoop,
  kMacro,
  kFunction,  // a global
  kMethod,    // bound to its object
  kCycler,
  kJoiner,
};

struct Entry;
struct Dict;
struct View;
struct Range;
struct Iterator;
struct Namespace;
struct Loop;
struct Macro;
struct Method;
struct Cycler;
struct Joiner;

// A small value type; what it points at lives in the Run, the Program or the variables.
struct Value {
  Kind kind = Kind::kUndefined;
  // kString: already escaped (markupsafe's Markup). kTuple: groupby's (grouper, list).
  bool marked = false;
  // kUndefined: the kind of the object without that attribute; kUndefined: none, `text` is a
  // variable; kNone: `text` is the whole sentence.
  Kind owner = Kind::kUndefined;
  union {
    bool boolean;
    int64_t integer = 0;
    double real;
    const char* chars;
    const Value* items;
    const Dict* dict;
    const View* view;
    const Range* range;
    Iterator* iterator;
    Namespace* names;
    Loop* loop;
    const Macro* macro;
    const Method* method;
    Cycler* cycler;
    Joiner* joiner;
    const void* object;
  };
  size_t size = 0;  // kString, kUndefined: bytes; kList, kTuple: items

  static Value none();
  static Value boolean_of(bool value);
  static Value integer_of(int64_t value);
  static Value real_of(double value);
  static Value string(std::string_view text, bool marked = false);  // `text` is not copied
  static Value undefined_variable(std::string_view name);
  static Value undefined_attribute(const Value& owner, std::string_view name);
  static Value undefined_because(std::string_view sentence);

  bool is(Kind other) const { return kind == other; }
  bool is_undefined() const { return kind == Kind::kUndefined; }
  bool is_none() const { return kind == Kind::kNone; }
  bool is_string() const { return kind == Kind::kString; }
  bool is_integral() const { return kind == Kind::kInt || kind == Kind::kBool; }
  bool is_number() const { return is_integral() || kind == Kind::kFloat; }
  bool is_sequence() const { return kind == Kind::kList || kind == Kind::kTuple; }
  std::string_view text() const { return {chars, size}; }  // kString, kUndefined
  int64_t as_integer() const { return kind == Kind::kBool ? boolean : integer; }  // is_integral()
  double as_real() const;                                                         // is_number()
  std::string_view type_name() const;  // as Python says it
};

struct Entry {
  Value key, value;
};

struct Dict {
  const Entry* entries;
  size_t size;
  const uint32_t* slots;  // open addressing, 1 + index of the entry; null for small dicts
  size_t slot_mask;
};

struct View {
  enum class Of : uint8_t { kKeys, kValues, kItems };
  const Dict* dict;
  Of of;
};

struct Range {
  int64_t start, stop, step;
  int64_t count;
  int64_t at(int64_t index) const { return start + index * step; }
};

struct Iterator {
  const Value* items;
  size_t size, position;
  int error;  // Run::deferred() of what went wrong after the last item, or -1
};

struct Namespace {
  Entry* entries;
  size_t size, capacity;
};

struct Loop {
  ForLoop* running;  // null once the loop is over
};

struct Macro {
  const MacroDefinition* definition;
  Scope* scope;  // where it was defined
};

struct Method {
  Value self;
  int id;
};

struct Cycler {
  const Value* items;
  size_t size, position;
};

struct Joiner {
  Value separator;
  bool used;
};

bool hashable_kind(Kind kind);
// Python's truth. A running loop counts as true.
bool truth(const Value& value);
// Whether len() is allowed; the length then.
bool has_length(const Value& value);
Result<int64_t> length(Run& run, const Value& value);

Result<uint64_t> hash(Run& run, const Value& value);
// ==
Result<bool> equal(Run& run, const Value& left, const Value& right);
// <; fails for types that have no order.
Result<bool> less(Run& run, const Value& left, const Value& right);
// `is` of Python.
bool identical(const Value& left, const Value& right);

// The value of a key, or null. Fails for a key that cannot be hashed.
Result<const Value*> find(Run& run, const Dict& dict, const Value& key);
Value* find_in_namespace(const Namespace& names, std::string_view name);  // or null

// All items that iterating over `value` gives, in memory of the run; an iterator is used up.
// Fails for what cannot be iterated over.
Result<Value> to_list(Run& run, const Value& value);
bool iterable(const Value& value);

}  // namespace skein::jinja
