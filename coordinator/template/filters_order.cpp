#include <algorithm>

#include "coordinator/template/filters.h"
#include "coordinator/template/operators.h"
#include "coordinator/template/text.h"
#include "coordinator/template/unicode.h"

namespace skein::jinja {
namespace {

struct Keyed {
  Value key, item;
};

Result<Value> fold(Run& run, const Value& value, bool case_sensitive) {
  if (case_sensitive || !value.is_string()) return value;
  RETURN_IF_ERROR(run.charge_bytes(4 * value.size));
  return run.text(to_lower(value.text()));
}

// Stable; `reverse` keeps the order of equals, too. Fails if keys have no order.
Status sort_by_key(Run& run, bool reverse, std::vector<Keyed>* items) {
  Status failure;
  std::stable_sort(items->begin(), items->end(), [&](const Keyed& a, const Keyed& b) {
    if (!failure.ok()) return false;
    const auto before = reverse ? less(run, b.key, a.key) : less(run, a.key, b.key);
    if (!before.ok()) failure = before.status();
    return before.ok() && *before;
  });
  return failure;
}

Result<Value> items_of(Run& run, const std::vector<Keyed>& keyed) {
  ListBuilder list(run);
  for (const Keyed& each : keyed) RETURN_IF_ERROR(list.push(each.item));
  return list.finish();
}

// "a,b.c": the paths that sort compares one after the other.
Result<std::vector<AttributePath>> paths_of(Run& run, const Value& attribute) {
  std::vector<AttributePath> paths;
  std::vector<Value> names;
  if (attribute.is_string()) {
    RETURN_IF_ERROR(run.charge(static_cast<int64_t>(attribute.size)));
    for (std::string_view rest = attribute.text();;) {
      const size_t comma = rest.find(',');
      names.push_back(Value::string(rest.substr(0, comma)));
      if (comma == rest.npos) break;
      rest.remove_prefix(comma + 1);
    }
  } else {
    names.push_back(attribute);
  }
  for (const Value& name : names) {
    ASSIGN_OR_RETURN(AttributePath path, AttributePath::parse(run, name));
    paths.push_back(std::move(path));
  }
  return paths;
}

Result<Value> sort_key(Run& run, const Value& item, const std::vector<AttributePath>& paths,
                       bool case_sensitive) {
  ListBuilder key(run);
  for (const AttributePath& path : paths) {
    ASSIGN_OR_RETURN(const Value part, path.get(run, item));
    ASSIGN_OR_RETURN(const Value folded, fold(run, part, case_sensitive));
    RETURN_IF_ERROR(key.push(folded));
  }
  return key.finish();
}

Result<Value> extreme(const Call& call, bool want_greatest) {
  Run& run = call.run;
  ASSIGN_OR_RETURN(const AttributePath path,
                   AttributePath::parse(run, call.value(1, Value::none())));
  ASSIGN_OR_RETURN(const Value list, to_list(run, call.self));
  if (list.size == 0) return Value::undefined_because("no aggregated item, the sequence was empty");
  Keyed best;
  for (size_t i = 0; i < list.size; ++i) {
    ASSIGN_OR_RETURN(const Value part, path.get(run, list.items[i]));
    ASSIGN_OR_RETURN(const Value key, fold(run, part, call.flag(0)));
    bool better = i == 0;
    if (!better) {
      ASSIGN_OR_RETURN(better, compare(run, want_greatest ? Operator::kGreater : Operator::kLess,
                                       key, best.key));
    }
    if (better) best = {key, list.items[i]};
  }
  return best.item;
}

}  // namespace

Result<Value> filter_min(const Call& call) { return extreme(call, false); }
Result<Value> filter_max(const Call& call) { return extreme(call, true); }

Result<Value> filter_sort(const Call& call) {
  Run& run = call.run;
  ASSIGN_OR_RETURN(const std::vector<AttributePath> paths,
                   paths_of(run, call.value(2, Value::none())));
  ASSIGN_OR_RETURN(const Value list, to_list(run, call.self));
  std::vector<Keyed> keyed;
  for (size_t i = 0; i < list.size; ++i) {
    ASSIGN_OR_RETURN(const Value key, sort_key(run, list.items[i], paths, call.flag(1)));
    RETURN_IF_ERROR(run.reserve(sizeof(Keyed)));
    keyed.push_back({key, list.items[i]});
  }
  RETURN_IF_ERROR(sort_by_key(run, call.flag(0), &keyed));
  return items_of(run, keyed);
}

Result<Value> filter_dictsort(const Call& call) {
  Run& run = call.run;
  RETURN_IF_ERROR(check_defined(run, call.self));
  ASSIGN_OR_RETURN(const std::string_view by, call.string(1, "key"));
  if (by != "key" && by != "value") {
    return run.error("dictsort can sort by \"key\" or \"value\" only");
  }
  if (!call.self.is(Kind::kDict)) return run.error("dictsort needs a dict");
  std::vector<Keyed> keyed;
  for (size_t i = 0; i < call.self.dict->size; ++i) {
    const Entry& entry = call.self.dict->entries[i];
    ASSIGN_OR_RETURN(const Value key,
                     fold(run, by == "key" ? entry.key : entry.value, call.flag(0)));
    ASSIGN_OR_RETURN(const Value pair,
                     run.sequence(Kind::kTuple, std::array{entry.key, entry.value}));
    RETURN_IF_ERROR(run.reserve(sizeof(Keyed)));
    keyed.push_back({key, pair});
  }
  RETURN_IF_ERROR(sort_by_key(run, call.flag(2), &keyed));
  return items_of(run, keyed);
}

Result<Value> filter_unique(const Call& call) {
  Run& run = call.run;
  ASSIGN_OR_RETURN(const AttributePath path,
                   AttributePath::parse(run, call.value(1, Value::none())));
  ASSIGN_OR_RETURN(const Value list, to_list(run, call.self));
  DictBuilder seen(run);
  ListBuilder unique(run);
  for (size_t i = 0; i < list.size; ++i) {
    ASSIGN_OR_RETURN(const Value part, path.get(run, list.items[i]));
    ASSIGN_OR_RETURN(const Value key, fold(run, part, call.flag(0)));
    const size_t before = seen.size();
    RETURN_IF_ERROR(seen.set(key, Value::none()));
    if (seen.size() > before) RETURN_IF_ERROR(unique.push(list.items[i]));
  }
  return run.iterator(unique.items());
}

Result<Value> filter_groupby(const Call& call) {
  Run& run = call.run;
  ASSIGN_OR_RETURN(const AttributePath path, AttributePath::parse(run, *call.get(0)));
  const Value* const otherwise =
      call.get(1) != nullptr && !call.get(1)->is_none() ? call.get(1) : nullptr;
  ASSIGN_OR_RETURN(const Value list, to_list(run, call.self));
  std::vector<Keyed> keyed;
  for (size_t i = 0; i < list.size; ++i) {
    ASSIGN_OR_RETURN(const Value part, path.get(run, list.items[i], otherwise));
    ASSIGN_OR_RETURN(const Value key, fold(run, part, call.flag(2)));
    RETURN_IF_ERROR(run.reserve(sizeof(Keyed)));
    keyed.push_back({key, list.items[i]});
  }
  RETURN_IF_ERROR(sort_by_key(run, false, &keyed));
  ListBuilder groups(run);
  for (size_t at = 0; at < keyed.size();) {
    ListBuilder group(run);
    ASSIGN_OR_RETURN(const Value grouper, path.get(run, keyed[at].item, otherwise));
    const size_t first = at;
    for (bool same = true; same;) {
      RETURN_IF_ERROR(group.push(keyed[at++].item));
      if (at == keyed.size()) break;
      ASSIGN_OR_RETURN(same, equal(run, keyed[first].key, keyed[at].key));
    }
    ASSIGN_OR_RETURN(const Value items, group.finish());
    ASSIGN_OR_RETURN(Value pair, run.sequence(Kind::kTuple, std::array{grouper, items}));
    pair.marked = true;
    RETURN_IF_ERROR(groups.push(pair));
  }
  return groups.finish();
}

}  // namespace skein::jinja
