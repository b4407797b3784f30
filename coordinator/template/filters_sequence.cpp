#include <algorithm>

#include "coordinator/template/filters.h"
#include "coordinator/template/operators.h"
#include "coordinator/template/text.h"
#include "coordinator/template/unicode.h"

namespace skein::jinja {
namespace {

bool reversible(const Value& value) { return has_length(value); }

Result<Value> reversed_list(Run& run, const Value& value) {
  ASSIGN_OR_RETURN(const Value list, to_list(run, value));
  RETURN_IF_ERROR(run.reserve(list.size * sizeof(Value)));
  std::vector<Value> items(list.items, list.items + list.size);
  std::reverse(items.begin(), items.end());
  return run.sequence(Kind::kList, items);
}

std::span<const Value> span_of(const Value& list) { return {list.items, list.size}; }

}  // namespace

Result<Value> filter_default(const Call& call) {
  const bool missing = call.self.is_undefined() || (call.flag(1) && !truth(call.self));
  return missing ? call.value(0, Value::string("")) : call.self;
}

Result<Value> filter_length(const Call& call) {
  if (call.self.is(Kind::kLoop)) return loop_attribute(call.run, call.self, "length");
  ASSIGN_OR_RETURN(const int64_t size, length(call.run, call.self));
  return Value::integer_of(size);
}

Result<Value> filter_list(const Call& call) { return to_list(call.run, call.self); }

Result<Value> filter_first(const Call& call) {
  const Value& value = call.self;
  if (value.is_string() && value.size > 0) {
    return Value::string(value.text().substr(0, first_code_point(value.text()).bytes));
  }
  if (value.is(Kind::kIterator) && value.iterator->position < value.iterator->size) {
    return value.iterator->items[value.iterator->position++];
  }
  ASSIGN_OR_RETURN(const Value list, to_list(call.run, value));
  return list.size > 0 ? list.items[0]
                       : Value::undefined_because("no first item, the sequence was empty");
}

Result<Value> filter_last(const Call& call) {
  const Value& value = call.self;
  if (!reversible(value)) {
    return call.run.error("last does not work on a value of type " +
                          std::string(value.type_name()));
  }
  if (value.is_string() && value.size > 0) {
    return Value::string(value.text().substr(last_code_point(value.text())));
  }
  ASSIGN_OR_RETURN(const Value list, to_list(call.run, value));
  return list.size > 0 ? list.items[list.size - 1]
                       : Value::undefined_because("no last item, the sequence was empty");
}

Result<Value> filter_reverse(const Call& call) {
  const Value& value = call.self;
  if (value.is_string()) {
    const Value step = Value::integer_of(-1);
    return get_slice(call.run, value, {.start = nullptr, .stop = nullptr, .step = &step});
  }
  ASSIGN_OR_RETURN(const Value list, reversed_list(call.run, value));
  return reversible(value) ? call.run.iterator(span_of(list)) : list;
}

Result<Value> filter_join(const Call& call) {
  Run& run = call.run;
  ASSIGN_OR_RETURN(const Value separator, to_text(run, call.value(0, Value::string(""))));
  ASSIGN_OR_RETURN(const AttributePath path,
                   AttributePath::parse(run, call.value(1, Value::none())));
  ASSIGN_OR_RETURN(const Value list, to_list(run, call.self));
  std::string out;
  for (size_t i = 0; i < list.size; ++i) {
    ASSIGN_OR_RETURN(const Value item, path.get(run, list.items[i]));
    if (i > 0) RETURN_IF_ERROR(append_text(run, separator, &out));
    RETURN_IF_ERROR(append_text(run, item, &out));
  }
  return run.text(out);
}

Result<Value> filter_items(const Call& call) {
  Run& run = call.run;
  if (call.self.is_undefined()) return run.iterator({});
  if (!call.self.is(Kind::kDict)) return run.error("items needs a dict");
  const View view{.dict = call.self.dict, .of = View::Of::kItems};
  Value value;
  value.kind = Kind::kView;
  value.view = &view;
  ASSIGN_OR_RETURN(const Value list, to_list(run, value));
  return run.iterator(span_of(list));
}

// Unlike a.b, this does not fall back on a["b"].
Result<Value> filter_attr(const Call& call) {
  ASSIGN_OR_RETURN(const std::string_view name, call.string(0, ""));
  if (call.self.is_undefined()) return call.run.error(undefined_message(call.self));
  if (call.self.is(Kind::kDict) && find_method(Kind::kDict, name) < 0) {
    return Value::undefined_attribute(call.self, name);
  }
  return get_attribute(call.run, call.self, name);
}

Result<Value> filter_batch(const Call& call) {
  Run& run = call.run;
  ASSIGN_OR_RETURN(const int64_t size, call.integer(0, 0));
  ASSIGN_OR_RETURN(const Value list, to_list(run, call.self));
  const Value fill = call.value(1, Value::none());
  if (size <= 0 && list.size > 0) return run.error("batch: the size must be positive");
  ListBuilder batches(run);
  for (size_t at = 0; at < list.size; at += static_cast<size_t>(size)) {
    const size_t end = std::min(list.size, at + static_cast<size_t>(size));
    ListBuilder batch(run);
    for (size_t i = at; i < end; ++i) RETURN_IF_ERROR(batch.push(list.items[i]));
    while (!fill.is_none() && batch.size() < static_cast<size_t>(size)) {
      RETURN_IF_ERROR(batch.push(fill));
    }
    ASSIGN_OR_RETURN(const Value made, batch.finish());
    RETURN_IF_ERROR(batches.push(made));
  }
  return run.iterator(batches.items());
}

Result<Value> filter_slice(const Call& call) {
  Run& run = call.run;
  ASSIGN_OR_RETURN(const int64_t slices, call.integer(0, 0));
  ASSIGN_OR_RETURN(const Value list, to_list(run, call.self));
  const Value fill = call.value(1, Value::none());
  if (slices == 0) return run.error("slice: the number of slices must not be zero");
  ListBuilder all(run);
  const auto size = static_cast<int64_t>(list.size);
  int64_t at = 0;
  for (int64_t number = 0; number < slices; ++number) {
    const bool longer = number < size % slices;
    const int64_t end = at + size / slices + (longer ? 1 : 0);
    ListBuilder slice(run);
    for (; at < end; ++at) RETURN_IF_ERROR(slice.push(list.items[at]));
    if (!fill.is_none() && !longer) RETURN_IF_ERROR(slice.push(fill));
    ASSIGN_OR_RETURN(const Value made, slice.finish());
    RETURN_IF_ERROR(all.push(made));
  }
  return run.iterator(all.items());
}

}  // namespace skein::jinja
