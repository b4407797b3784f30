#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "coordinator/template/ast.h"
#include "coordinator/template/run.h"
#include "coordinator/template/value.h"

// Python's operators on values.

namespace skein::jinja {

Result<Value> arithmetic(Run& run, Operator op, const Value& left, const Value& right);
Result<Value> negate(Run& run, const Value& value);
Result<Value> plus(Run& run, const Value& value);
Result<bool> compare(Run& run, Operator op, const Value& left, const Value& right);
Result<bool> contains(Run& run, const Value& container, const Value& item);

// object.name, object[key] as Jinja's sandbox looks them up: each falls back on the other, then on
// undefined.
Result<Value> get_attribute(Run& run, const Value& object, std::string_view name);
Result<Value> get_item(Run& run, const Value& object, const Value& key);
// Bounds may be null or none.
struct SliceBounds {
  const Value* start;
  const Value* stop;
  const Value* step;
};
Result<Value> get_slice(Run& run, const Value& object, const SliceBounds& bounds);

// "a.b.0" as the attribute arguments of filters take it.
class AttributePath {
 public:
  // None means the object itself.
  static Result<AttributePath> parse(Run& run, const Value& attribute);
  // `otherwise`, unless null, stands for what is undefined.
  Result<Value> get(Run& run, Value object, const Value* otherwise = nullptr) const;

 private:
  std::vector<Value> parts_;
};

}  // namespace skein::jinja
