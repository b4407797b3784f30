#include "coordinator/template/value.h"

#include <cmath>
#include <functional>

#include "coordinator/template/run.h"
#include "coordinator/template/unicode.h"

namespace skein::jinja {
namespace {

std::string_view type_name_of(Kind kind) {
  switch (kind) {
    case Kind::kUndefined: return "Undefined";
    case Kind::kNone: return "NoneType";
    case Kind::kBool: return "bool";
    case Kind::kInt: return "int";
    case Kind::kFloat: return "float";
    case Kind::kString: return "str";
    case Kind::kList: return "list";
    case Kind::kTuple: return "tuple";
    case Kind::kDict: return "dict";
    case Kind::kView: return "dict view";
    case Kind::kRange: return "range";
    case Kind::kIterator: return "generator";
    case Kind::kNamespace: return "Namespace";
    case Kind::kLoop: return "LoopContext";
    case Kind::kMacro: return "Macro";
    case Kind::kFunction: return "function";
    case Kind::kMethod: return "method";
    case Kind::kCycler: return "Cycler";
    case Kind::kJoiner: return "Joiner";
  }
  return "";
}

Result<bool> equal_items(Run& run, const Value& left, const Value& right) {
  if (left.size != right.size) return false;
  for (size_t i = 0; i < left.size; ++i) {
    if (identical(left.items[i], right.items[i])) {
      RETURN_IF_ERROR(run.charge(1));
      continue;
    }
    ASSIGN_OR_RETURN(const bool same, equal(run, left.items[i], right.items[i]));
    if (!same) return false;
  }
  return true;
}

Result<bool> equal_dicts(Run& run, const Dict& left, const Dict& right) {
  if (left.size != right.size) return false;
  for (size_t i = 0; i < left.size; ++i) {
    ASSIGN_OR_RETURN(const Value* const other, find(run, right, left.entries[i].key));
    if (other == nullptr) return false;
    ASSIGN_OR_RETURN(const bool same, equal(run, left.entries[i].value, *other));
    if (!same) return false;
  }
  return true;
}

// long double holds every int64 exactly.
bool equal_numbers(const Value& left, const Value& right) {
  if (left.is_integral() && right.is_integral()) return left.as_integer() == right.as_integer();
  if (left.is(Kind::kFloat) && right.is(Kind::kFloat)) return left.real == right.real;
  const Value& real = left.is(Kind::kFloat) ? left : right;
  const Value& integer = left.is(Kind::kFloat) ? right : left;
  return static_cast<long double>(real.real) == static_cast<long double>(integer.as_integer());
}

bool less_numbers(const Value& left, const Value& right) {
  if (left.is_integral() && right.is_integral()) return left.as_integer() < right.as_integer();
  const auto wide = [](const Value& value) {
    return value.is(Kind::kFloat) ? static_cast<long double>(value.real)
                                  : static_cast<long double>(value.as_integer());
  };
  return wide(left) < wide(right);
}

uint64_t mix(uint64_t a, uint64_t b) {
  uint64_t x = (a ^ (b + 0x9E3779B97F4A7C15u + (a << 6) + (a >> 2))) * 0xBF58476D1CE4E5B9u;
  return x ^ (x >> 31);
}

Result<Value> list_of_code_points(Run& run, std::string_view text) {
  ListBuilder list(run);
  while (!text.empty()) {
    const size_t bytes = first_code_point(text).bytes;
    RETURN_IF_ERROR(list.push(Value::string(text.substr(0, bytes))));
    text.remove_prefix(bytes);
  }
  return list.finish();
}

Result<Value> list_of_entries(Run& run, const Dict& dict, View::Of of) {
  ListBuilder list(run);
  for (size_t i = 0; i < dict.size; ++i) {
    const Entry& entry = dict.entries[i];
    if (of == View::Of::kItems) {
      ASSIGN_OR_RETURN(const Value pair,
                       run.sequence(Kind::kTuple, std::array{entry.key, entry.value}));
      RETURN_IF_ERROR(list.push(pair));
    } else {
      RETURN_IF_ERROR(list.push(of == View::Of::kKeys ? entry.key : entry.value));
    }
  }
  return list.finish();
}

Result<Value> rest_of_iterator(Run& run, Iterator& iterator) {
  Value rest;
  rest.kind = Kind::kList;
  rest.items = iterator.items + iterator.position;
  rest.size = iterator.size - iterator.position;
  iterator.position = iterator.size;
  if (iterator.error >= 0) return run.deferred(iterator.error);
  return rest;
}

}  // namespace

Value Value::none() {
  Value value;
  value.kind = Kind::kNone;
  return value;
}

Value Value::boolean_of(bool boolean) {
  Value value;
  value.kind = Kind::kBool;
  value.boolean = boolean;
  return value;
}

Value Value::integer_of(int64_t integer) {
  Value value;
  value.kind = Kind::kInt;
  value.integer = integer;
  return value;
}

Value Value::real_of(double real) {
  Value value;
  value.kind = Kind::kFloat;
  value.real = real;
  return value;
}

Value Value::string(std::string_view text, bool marked) {
  Value value;
  value.kind = Kind::kString;
  value.marked = marked;
  value.chars = text.data();
  value.size = text.size();
  return value;
}

Value Value::undefined_variable(std::string_view name) {
  Value value = string(name);
  value.kind = Kind::kUndefined;
  return value;
}

Value Value::undefined_attribute(const Value& owner, std::string_view name) {
  Value value = undefined_variable(name);
  value.owner = owner.kind;
  return value;
}

Value Value::undefined_because(std::string_view sentence) {
  Value value = undefined_variable(sentence);
  value.owner = Kind::kNone;
  return value;
}

double Value::as_real() const {
  return kind == Kind::kFloat ? real : static_cast<double>(as_integer());
}

std::string_view Value::type_name() const { return type_name_of(kind); }

bool hashable_kind(Kind kind) {
  return kind != Kind::kList && kind != Kind::kDict && kind != Kind::kView;
}

bool truth(const Value& value) {
  switch (value.kind) {
    case Kind::kUndefined:
    case Kind::kNone: return false;
    case Kind::kBool: return value.boolean;
    case Kind::kInt: return value.integer != 0;
    case Kind::kFloat: return value.real != 0;
    case Kind::kString:
    case Kind::kList:
    case Kind::kTuple: return value.size != 0;
    case Kind::kDict: return value.dict->size != 0;
    case Kind::kView: return value.view->dict->size != 0;
    case Kind::kRange: return value.range->count != 0;
    case Kind::kIterator:
    case Kind::kNamespace:
    case Kind::kLoop:
    case Kind::kMacro:
    case Kind::kFunction:
    case Kind::kMethod:
    case Kind::kCycler:
    case Kind::kJoiner: return true;
  }
  return true;
}

bool has_length(const Value& value) {
  return value.is_undefined() || value.is_string() || value.is_sequence() ||
         value.is(Kind::kDict) || value.is(Kind::kView) || value.is(Kind::kRange);
}

Result<int64_t> length(Run& run, const Value& value) {
  if (value.is_undefined()) return int64_t{0};
  if (value.is_string()) {
    RETURN_IF_ERROR(run.charge_bytes(value.size));
    return static_cast<int64_t>(count_code_points(value.text()));
  }
  if (value.is_sequence()) return static_cast<int64_t>(value.size);
  if (value.is(Kind::kDict)) return static_cast<int64_t>(value.dict->size);
  if (value.is(Kind::kView)) return static_cast<int64_t>(value.view->dict->size);
  if (value.is(Kind::kRange)) return value.range->count;
  return run.error("a value of type " + std::string(value.type_name()) + " has no length");
}

Result<uint64_t> hash(Run& run, const Value& value) {
  RETURN_IF_ERROR(run.charge(1));
  if (!hashable_kind(value.kind)) {
    return run.error("a value of type " + std::string(value.type_name()) + " cannot be a key");
  }
  switch (value.kind) {
    case Kind::kNone: return mix(1, 1);
    case Kind::kBool:
    case Kind::kInt: return mix(2, static_cast<uint64_t>(value.as_integer()));
    case Kind::kFloat: {
      const double real = value.real;
      if (real >= -9.2e18 && real <= 9.2e18 && real == std::floor(real)) {
        return mix(2, static_cast<uint64_t>(static_cast<int64_t>(real)));
      }
      return mix(3, std::hash<double>()(real));
    }
    case Kind::kString:
      RETURN_IF_ERROR(run.charge_bytes(value.size));
      return mix(4, std::hash<std::string_view>()(value.text()));
    case Kind::kTuple: {
      const Nesting nesting(run);
      RETURN_IF_ERROR(nesting.status());
      uint64_t all = 5;
      for (size_t i = 0; i < value.size; ++i) {
        ASSIGN_OR_RETURN(const uint64_t one, hash(run, value.items[i]));
        all = mix(all, one);
      }
      return all;
    }
    case Kind::kUndefined: return mix(6, 6);
    case Kind::kRange: return mix(mix(7, value.range->start), value.range->count);
    default: return mix(8, std::hash<const void*>()(value.object));
  }
}

bool identical(const Value& left, const Value& right) {
  if (left.kind != right.kind) return false;
  switch (left.kind) {
    case Kind::kNone: return true;
    case Kind::kBool: return left.boolean == right.boolean;
    case Kind::kInt:
    case Kind::kFunction: return left.integer == right.integer;
    case Kind::kString:
    case Kind::kList:
    case Kind::kTuple: return left.chars == right.chars && left.size == right.size;
    case Kind::kUndefined:
    case Kind::kFloat: return false;
    default: return left.object == right.object;
  }
}

Result<bool> equal(Run& run, const Value& left, const Value& right) {
  RETURN_IF_ERROR(run.charge(1));
  if (left.is_number() && right.is_number()) return equal_numbers(left, right);
  if (left.kind != right.kind) return false;
  if (left.is_string()) {
    if (left.size != right.size) return false;
    RETURN_IF_ERROR(run.charge_bytes(left.size));
    return left.text() == right.text();
  }
  if (left.is_undefined()) return true;
  const Nesting nesting(run);
  RETURN_IF_ERROR(nesting.status());
  if (left.is_sequence()) return equal_items(run, left, right);
  if (left.is(Kind::kDict)) return equal_dicts(run, *left.dict, *right.dict);
  if (left.is(Kind::kRange)) {
    const Range& a = *left.range;
    const Range& b = *right.range;
    return a.count == b.count &&
           (a.count == 0 || (a.start == b.start && (a.count == 1 || a.step == b.step)));
  }
  if (left.is(Kind::kMethod)) {
    return left.method->id == right.method->id && identical(left.method->self, right.method->self);
  }
  return identical(left, right);
}

Result<bool> less(Run& run, const Value& left, const Value& right) {
  RETURN_IF_ERROR(run.charge(1));
  if (left.is_number() && right.is_number()) return less_numbers(left, right);
  if (left.is_string() && right.is_string()) {
    RETURN_IF_ERROR(run.charge_bytes(std::min(left.size, right.size)));
    return left.text() < right.text();  // UTF-8 sorts as code points do
  }
  if (left.kind != right.kind || !left.is_sequence()) {
    return run.error("values of types " + std::string(left.type_name()) + " and " +
                     std::string(right.type_name()) + " have no order");
  }
  const Nesting nesting(run);
  RETURN_IF_ERROR(nesting.status());
  for (size_t i = 0; i < std::min(left.size, right.size); ++i) {
    if (identical(left.items[i], right.items[i])) continue;
    ASSIGN_OR_RETURN(const bool same, equal(run, left.items[i], right.items[i]));
    if (!same) return less(run, left.items[i], right.items[i]);
  }
  return left.size < right.size;
}

Result<const Value*> find(Run& run, const Dict& dict, const Value& key) {
  ASSIGN_OR_RETURN(const uint64_t key_hash, hash(run, key));
  if (dict.slots == nullptr) {
    for (size_t i = 0; i < dict.size; ++i) {
      if (key.is_string() && dict.entries[i].key.is_string() &&
          key.size != dict.entries[i].key.size) {
        continue;
      }
      ASSIGN_OR_RETURN(const bool same, equal(run, dict.entries[i].key, key));
      if (same) return &dict.entries[i].value;
    }
    return nullptr;
  }
  for (size_t slot = key_hash & dict.slot_mask; dict.slots[slot] != 0;
       slot = (slot + 1) & dict.slot_mask) {
    const Entry& entry = dict.entries[dict.slots[slot] - 1];
    ASSIGN_OR_RETURN(const bool same, equal(run, entry.key, key));
    if (same) return &entry.value;
  }
  return nullptr;
}

Value* find_in_namespace(const Namespace& names, std::string_view name) {
  for (size_t i = 0; i < names.size; ++i) {
    Entry& entry = names.entries[i];
    if (entry.key.is_string() && entry.key.text() == name) return &entry.value;
  }
  return nullptr;
}

bool iterable(const Value& value) { return has_length(value) || value.is(Kind::kIterator); }

Result<Value> to_list(Run& run, const Value& value) {
  switch (value.kind) {
    case Kind::kUndefined: return run.sequence(Kind::kList, {});
    case Kind::kString: return list_of_code_points(run, value.text());
    case Kind::kList:
    case Kind::kTuple: {
      Value list = value;
      list.kind = Kind::kList;
      list.marked = false;
      return list;
    }
    case Kind::kDict: return list_of_entries(run, *value.dict, View::Of::kKeys);
    case Kind::kView: return list_of_entries(run, *value.view->dict, value.view->of);
    case Kind::kRange: {
      ListBuilder list(run);
      for (int64_t i = 0; i < value.range->count; ++i) {
        RETURN_IF_ERROR(list.push(Value::integer_of(value.range->at(i))));
      }
      return list.finish();
    }
    case Kind::kIterator: return rest_of_iterator(run, *value.iterator);
    default:
      return run.error("cannot iterate over a value of type " + std::string(value.type_name()));
  }
}

}  // namespace skein::jinja
