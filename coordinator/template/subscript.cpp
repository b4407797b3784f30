#include <algorithm>
#include <charconv>

#include "coordinator/template/ast.h"
#include "coordinator/template/functions.h"
#include "coordinator/template/operators.h"
#include "coordinator/template/text.h"
#include "coordinator/template/unicode.h"

namespace skein::jinja {
namespace {

constexpr std::string_view kUnsupportedStringMethods[] = {
    "encode", "expandtabs", "format_map", "isidentifier", "maketrans", "translate"};
// Methods that would change the object: the sandbox hides them.
constexpr std::string_view kDictMutators[] = {"clear", "pop", "popitem", "setdefault", "update"};
constexpr std::string_view kListMutators[] = {"append", "clear", "pop",    "reverse",
                                              "insert", "sort",  "extend", "remove"};

bool is_in(std::span<const std::string_view> names, std::string_view name) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

Result<Value> bind_method(Run& run, const Value& object, int id) {
  ASSIGN_OR_RETURN(const Method* const method, run.make(Method{.self = object, .id = id}));
  Value value;
  value.kind = Kind::kMethod;
  value.method = method;
  return value;
}

Result<std::optional<Value>> own_field(Run& run, const Value& object, std::string_view name) {
  using Found = std::optional<Value>;
  switch (object.kind) {
    case Kind::kTuple:
      if (!object.marked || object.size != 2) break;
      if (name == "grouper") return Found(object.items[0]);
      if (name == "list") return Found(object.items[1]);
      break;
    case Kind::kRange:
      if (name == "start") return Found(Value::integer_of(object.range->start));
      if (name == "stop") return Found(Value::integer_of(object.range->stop));
      if (name == "step") return Found(Value::integer_of(object.range->step));
      break;
    case Kind::kMacro:
      if (name == "name") return Found(Value::string(object.macro->definition->name));
      break;
    case Kind::kCycler:
      if (name == "current") return Found(object.cycler->items[object.cycler->position]);
      break;
    case Kind::kNamespace: {
      const Value* const found = find_in_namespace(*object.names, name);
      RETURN_IF_ERROR(run.charge(static_cast<int64_t>(object.names->size >> 2)));
      if (found != nullptr) return Found(*found);
      break;
    }
    default: break;
  }
  return Found();
}

// getattr(object, name): nothing if there is none.
Result<std::optional<Value>> find_attribute(Run& run, const Value& object, std::string_view name) {
  using Found = std::optional<Value>;
  if (object.is_undefined()) return run.error(undefined_message(object));
  if (object.is(Kind::kLoop)) {
    ASSIGN_OR_RETURN(const Value value, loop_attribute(run, object, name));
    return Found(value);
  }
  if (object.is(Kind::kString) && is_in(kUnsupportedStringMethods, name)) {
    return run.error("the string method '" + std::string(name) + "' is not supported");
  }
  if ((object.is(Kind::kDict) && is_in(kDictMutators, name)) ||
      (object.is(Kind::kList) && is_in(kListMutators, name))) {
    return Found(Value::undefined_because("a template must not change lists and dicts"));
  }
  if (const int method = find_method(object.kind, name); method >= 0) {
    ASSIGN_OR_RETURN(const Value value, bind_method(run, object, method));
    return Found(value);
  }
  return own_field(run, object, name);
}

// object[key]: nothing where Python raises a TypeError or LookupError.
Result<std::optional<Value>> find_item(Run& run, const Value& object, const Value& key) {
  using Found = std::optional<Value>;
  if (object.is_undefined()) return run.error(undefined_message(object));
  if (object.is(Kind::kDict)) {
    bool hashable = hashable_kind(key.kind);
    if (key.is(Kind::kTuple)) {
      const auto key_hash = hash(run, key);
      if (!key_hash.ok() && run.exhausted()) return key_hash.status();
      hashable = key_hash.ok();
    }
    if (!hashable) return Found();
    ASSIGN_OR_RETURN(const Value* const found, find(run, *object.dict, key));
    return found != nullptr ? Found(*found) : Found();
  }
  const bool indexable = object.is_string() || object.is_sequence() || object.is(Kind::kRange);
  if (!indexable || !key.is_integral()) return Found();
  ASSIGN_OR_RETURN(const int64_t size, length(run, object));
  int64_t index = key.as_integer();
  if (index < 0) index += size;
  if (index < 0 || index >= size) return Found();
  if (object.is(Kind::kRange)) return Found(Value::integer_of(object.range->at(index)));
  if (object.is_sequence()) return Found(object.items[index]);
  const std::string_view rest =
      object.text().substr(byte_offset(object.text(), static_cast<size_t>(index)));
  return Found(Value::string(rest.substr(0, first_code_point(rest).bytes), object.marked));
}

Result<int64_t> slice_bound(Run& run, const Value* bound, int64_t otherwise, int64_t size,
                            bool backward) {
  if (bound == nullptr || bound->is_none()) return otherwise;
  if (!bound->is_integral()) return run.error("the bounds of a slice must be integers");
  int64_t index = bound->as_integer();
  if (index < 0) index = std::max(index + size, int64_t{backward ? -1 : 0});
  return std::min(index, backward ? size - 1 : size);
}

Result<Value> pick(Run& run, const Value& object, const Range& indices) {
  if (object.is(Kind::kRange)) {
    const Range& range = *object.range;
    ASSIGN_OR_RETURN(Range* const made, run.make(Range{.start = range.at(indices.start),
                                                       .stop = range.at(indices.stop),
                                                       .step = range.step * indices.step,
                                                       .count = indices.count}));
    Value value;
    value.kind = Kind::kRange;
    value.range = made;
    return value;
  }
  if (object.is_sequence()) {
    if (indices.step == 1) {
      Value value = object;
      value.marked = false;
      value.items = object.items + (indices.count > 0 ? indices.start : 0);
      value.size = static_cast<size_t>(indices.count);
      return value;
    }
    ListBuilder list(run);
    for (int64_t i = 0; i < indices.count; ++i) {
      RETURN_IF_ERROR(list.push(object.items[indices.at(i)]));
    }
    return list.finish(object.kind);
  }
  const std::string_view text = object.text();
  if (indices.step == 1) {
    const size_t begin = byte_offset(text, static_cast<size_t>(indices.start));
    const size_t bytes = byte_offset(text.substr(begin), static_cast<size_t>(indices.count));
    return Value::string(text.substr(begin, bytes), object.marked);
  }
  ASSIGN_OR_RETURN(const Value characters, to_list(run, object));
  std::string out;
  for (int64_t i = 0; i < indices.count; ++i) out += characters.items[indices.at(i)].text();
  ASSIGN_OR_RETURN(Value picked, run.text(out));
  picked.marked = object.marked;
  return picked;
}

}  // namespace

Result<Value> get_attribute(Run& run, const Value& object, std::string_view name) {
  ASSIGN_OR_RETURN(const std::optional<Value> attribute, find_attribute(run, object, name));
  if (attribute) return *attribute;
  ASSIGN_OR_RETURN(const std::optional<Value> item, find_item(run, object, Value::string(name)));
  return item ? *item : Value::undefined_attribute(object, name);
}

Result<Value> get_item(Run& run, const Value& object, const Value& key) {
  ASSIGN_OR_RETURN(const std::optional<Value> item, find_item(run, object, key));
  if (item) return *item;
  if (!key.is_string()) return Value::undefined_because("there is no such item");
  ASSIGN_OR_RETURN(const std::optional<Value> attribute, find_attribute(run, object, key.text()));
  return attribute ? *attribute : Value::undefined_attribute(object, key.text());
}

Result<Value> get_slice(Run& run, const Value& object, const SliceBounds& bounds) {
  RETURN_IF_ERROR(check_defined(run, object));
  if (!object.is_string() && !object.is_sequence() && !object.is(Kind::kRange)) {
    return run.error("a value of type " + std::string(object.type_name()) + " cannot be sliced");
  }
  ASSIGN_OR_RETURN(const int64_t size, length(run, object));
  int64_t step = 1;
  if (bounds.step != nullptr && !bounds.step->is_none()) {
    if (!bounds.step->is_integral()) return run.error("the step of a slice must be an integer");
    step = std::clamp(bounds.step->as_integer(), -size - 1,
                      size + 1);  // a larger one picks the same items
    if (step == 0) return run.error("the step of a slice must not be zero");
  }
  const bool backward = step < 0;
  ASSIGN_OR_RETURN(const int64_t start,
                   slice_bound(run, bounds.start, backward ? size - 1 : 0, size, backward));
  ASSIGN_OR_RETURN(const int64_t stop,
                   slice_bound(run, bounds.stop, backward ? -1 : size, size, backward));
  const int64_t distance = backward ? start - stop : stop - start;
  const int64_t stride = backward ? -step : step;
  const int64_t count = distance <= 0 ? 0 : (distance + stride - 1) / stride;
  return pick(run, object, Range{.start = start, .stop = stop, .step = step, .count = count});
}

Result<AttributePath> AttributePath::parse(Run& run, const Value& attribute) {
  AttributePath path;
  if (attribute.is_none()) return path;
  if (!attribute.is_string()) {
    path.parts_.push_back(attribute);
    return path;
  }
  RETURN_IF_ERROR(run.charge(static_cast<int64_t>(attribute.size)));
  std::string_view rest = attribute.text();
  while (true) {
    const size_t dot = rest.find('.');
    const std::string_view part = rest.substr(0, dot);
    int64_t index = 0;
    const auto [end, error] = std::from_chars(part.data(), part.data() + part.size(), index);
    const bool is_index =
        error == std::errc() && end == part.data() + part.size() && part[0] != '-';
    path.parts_.push_back(is_index ? Value::integer_of(index) : Value::string(part));
    if (dot == rest.npos) return path;
    rest.remove_prefix(dot + 1);
  }
}

Result<Value> AttributePath::get(Run& run, Value object, const Value* otherwise) const {
  for (const Value& part : parts_) {
    RETURN_IF_ERROR(run.charge(1));
    ASSIGN_OR_RETURN(object, get_item(run, object, part));
    if (otherwise != nullptr && object.is_undefined()) object = *otherwise;
  }
  return object;
}

}  // namespace skein::jinja
