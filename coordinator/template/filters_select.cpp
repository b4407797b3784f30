#include "coordinator/template/filters.h"
#include "coordinator/template/operators.h"
#include "coordinator/template/tests.h"
#include "coordinator/template/text.h"

namespace skein::jinja {
namespace {

// These filters are lazy in Python: what went wrong at an item counts only when a walk reaches it.
Result<Value> stop_at(Run& run, ListBuilder& items, Status error) {
  if (run.exhausted()) return error;
  return run.failing_iterator(items.items(), std::move(error));
}

// The arguments behind the first `skipped` ones, with all keywords.
CallArguments rest_of(const CallArguments& arguments, size_t skipped) {
  CallArguments rest;
  rest.positional.assign(arguments.positional.begin() + static_cast<std::ptrdiff_t>(skipped),
                         arguments.positional.end());
  rest.keywords = arguments.keywords;
  return rest;
}

// What map does to one item: look up an attribute or apply a filter.
class Mapping {
 public:
  static Result<Mapping> parse(const Call& call) {
    Mapping mapping;
    const auto& [positional, keywords] = call.arguments;
    if (!positional.empty()) {
      if (!positional[0].is_string()) return call.run.error("map needs the name of a filter");
      mapping.name_ = positional[0].text();
      mapping.arguments_ = rest_of(call.arguments, 1);
      return mapping;
    }
    bool has_attribute = false;
    for (const auto& [name, value] : keywords) {
      if (name == "attribute") {
        ASSIGN_OR_RETURN(mapping.path_, AttributePath::parse(call.run, value));
        has_attribute = true;
      } else if (name == "default") {
        mapping.otherwise_ = value;
      } else {
        return call.run.error("map has no argument named '" + std::string(name.substr(0, 100)) +
                              "'");
      }
    }
    if (!has_attribute) return call.run.error("map needs the name of a filter or an attribute");
    return mapping;
  }

  Result<Value> apply(Run& run, const Value& item) const {
    if (name_.empty()) return path_.get(run, item, otherwise_.is_none() ? nullptr : &otherwise_);
    return apply_filter(run, find_filter(name_), name_, item, arguments_);
  }

 private:
  std::string_view name_;
  CallArguments arguments_;
  AttributePath path_;
  Value otherwise_ = Value::none();
};

// What select, reject, selectattr and rejectattr ask of one item.
class Selection {
 public:
  static Result<Selection> parse(const Call& call, bool of_attribute) {
    Selection selection;
    const auto& positional = call.arguments.positional;
    const size_t skipped = of_attribute ? 1 : 0;
    if (of_attribute) {
      if (positional.empty()) return call.run.error("the name of an attribute is missing");
      ASSIGN_OR_RETURN(selection.path_, AttributePath::parse(call.run, positional[0]));
    }
    if (positional.size() > skipped) {
      if (!positional[skipped].is_string()) {
        return call.run.error("the name of a test must be a string");
      }
      selection.test_ = positional[skipped].text();
      selection.arguments_ = rest_of(call.arguments, skipped + 1);
    }
    return selection;
  }

  Result<bool> holds(Run& run, const Value& item) const {
    ASSIGN_OR_RETURN(const Value value, path_.get(run, item));
    if (test_.empty()) return truth(value);
    return apply_test(run, find_test(test_), test_, value, arguments_);
  }

 private:
  AttributePath path_;
  std::string_view test_;
  CallArguments arguments_;
};

Result<Value> select(const Call& call, bool of_attribute, bool wanted) {
  Run& run = call.run;
  if (!truth(call.self)) return run.iterator({});
  ListBuilder selected(run);
  ASSIGN_OR_RETURN(const Selection selection, Selection::parse(call, of_attribute));
  ASSIGN_OR_RETURN(const Value list, to_list(run, call.self));
  for (size_t i = 0; i < list.size; ++i) {
    const auto holds = selection.holds(run, list.items[i]);
    if (!holds.ok()) return stop_at(run, selected, holds.status());
    RETURN_IF_ERROR(run.charge(1));
    if (*holds == wanted) RETURN_IF_ERROR(selected.push(list.items[i]));
  }
  return run.iterator(selected.items());
}

}  // namespace

Result<Value> filter_map(const Call& call) {
  Run& run = call.run;
  if (!truth(call.self)) return run.iterator({});
  ListBuilder mapped(run);
  ASSIGN_OR_RETURN(const Mapping mapping, Mapping::parse(call));
  ASSIGN_OR_RETURN(const Value list, to_list(run, call.self));
  for (size_t i = 0; i < list.size; ++i) {
    const auto value = mapping.apply(run, list.items[i]);
    if (!value.ok()) return stop_at(run, mapped, value.status());
    RETURN_IF_ERROR(mapped.push(*value));
  }
  return run.iterator(mapped.items());
}

Result<Value> filter_select(const Call& call) { return select(call, false, true); }
Result<Value> filter_reject(const Call& call) { return select(call, false, false); }
Result<Value> filter_selectattr(const Call& call) { return select(call, true, true); }
Result<Value> filter_rejectattr(const Call& call) { return select(call, true, false); }

}  // namespace skein::jinja
