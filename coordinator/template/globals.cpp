#include <ctime>

#include "coordinator/template/functions.h"
#include "coordinator/template/text.h"

namespace skein::jinja {
namespace {

constexpr int64_t kRangeItemsMax = 100'000;           // as in Jinja's sandbox
constexpr int64_t kRangeBoundMax = int64_t{1} << 52;  // leaves room to compute with
constexpr size_t kTimeFormatMax = 256;

Result<Value> range(const Call& call) {
  Run& run = call.run;
  const size_t given = call.arguments.positional.size();
  int64_t bounds[] = {0, 0, 1};
  for (size_t i = 0; i < given; ++i) {
    const Value& bound = call.arguments.positional[i];
    if (!bound.is_integral()) return run.error("range needs integers");
    bounds[given == 1 ? 1 : i] = bound.as_integer();
  }
  for (const int64_t bound : bounds) {
    if (bound < -kRangeBoundMax || bound > kRangeBoundMax) {
      return run.error("range: a number is too large");
    }
  }
  const auto [start, stop, step] = bounds;
  if (step == 0) return run.error("range: the step must not be zero");
  const int64_t distance = step > 0 ? stop - start : start - stop;
  const int64_t stride = step > 0 ? step : -step;
  const int64_t count = distance <= 0 ? 0 : (distance + stride - 1) / stride;
  if (count > kRangeItemsMax) {
    return run.error("range: more than " + std::to_string(kRangeItemsMax) +
                     " items are not allowed");
  }
  ASSIGN_OR_RETURN(const Range* const made,
                   run.make(Range{.start = start, .stop = stop, .step = step, .count = count}));
  Value value;
  value.kind = Kind::kRange;
  value.range = made;
  return value;
}

// What dict(pairs, name=value) gathers.
Status gather(const Call& call, DictBuilder* dict) {
  Run& run = call.run;
  const auto& [positional, keywords] = call.arguments;
  if (positional.size() > 1) return run.error("dict takes one positional argument");
  if (positional.size() == 1 && positional[0].is(Kind::kDict)) {
    const Dict& source = *positional[0].dict;
    for (size_t i = 0; i < source.size; ++i) {
      RETURN_IF_ERROR(run.charge(1));
      RETURN_IF_ERROR(dict->set(source.entries[i].key, source.entries[i].value));
    }
  } else if (positional.size() == 1) {
    ASSIGN_OR_RETURN(const Value pairs, to_list(run, positional[0]));
    for (size_t i = 0; i < pairs.size; ++i) {
      ASSIGN_OR_RETURN(const Value pair, to_list(run, pairs.items[i]));
      if (pair.size != 2) return run.error("dict needs pairs");
      RETURN_IF_ERROR(dict->set(pair.items[0], pair.items[1]));
    }
  }
  for (const auto& [name, value] : keywords) RETURN_IF_ERROR(dict->set(Value::string(name), value));
  return {};
}

Result<Value> dict(const Call& call) {
  DictBuilder builder(call.run);
  RETURN_IF_ERROR(gather(call, &builder));
  return builder.finish();
}

Result<Value> make_namespace(const Call& call) {
  Run& run = call.run;
  ASSIGN_OR_RETURN(const Value attributes, dict(call));
  const size_t size = attributes.dict->size;
  ASSIGN_OR_RETURN(Entry* const entries, run.allocate<Entry>(size));
  for (size_t i = 0; i < size; ++i) {
    entries[i] = attributes.dict->entries[i];
    if (entries[i].key.is_string() && entries[i].key.text().starts_with('_')) {
      return run.error("names in a namespace must not begin with an underscore");
    }
  }
  ASSIGN_OR_RETURN(Namespace* const made,
                   run.make(Namespace{.entries = entries, .size = size, .capacity = size}));
  Value value;
  value.kind = Kind::kNamespace;
  value.names = made;
  return value;
}

Result<Value> make_cycler(const Call& call) {
  Run& run = call.run;
  const auto& [items, keywords] = call.arguments;
  if (items.empty() || !keywords.empty()) return run.error("cycler needs at least one item");
  ASSIGN_OR_RETURN(const Value list, run.sequence(Kind::kList, items));
  ASSIGN_OR_RETURN(Cycler* const made,
                   run.make(Cycler{.items = list.items, .size = list.size, .position = 0}));
  Value value;
  value.kind = Kind::kCycler;
  value.cycler = made;
  return value;
}

Result<Value> make_joiner(const Call& call) {
  const Joiner joiner{.separator = call.value(0, Value::string(", ")), .used = false};
  ASSIGN_OR_RETURN(Joiner* const made, call.run.make(joiner));
  Value value;
  value.kind = Kind::kJoiner;
  value.joiner = made;
  return value;
}

Result<Value> raise_exception(const Call& call) {
  ASSIGN_OR_RETURN(const Value message, to_text(call.run, *call.get(0)));
  return call.run.error(message.text());
}

Result<Value> strftime_now(const Call& call) {
  ASSIGN_OR_RETURN(const std::string_view format, call.string(0, ""));
  if (format.size() > kTimeFormatMax) return call.run.error("strftime_now: the format is too long");
  // The space tells an empty result from a buffer that is too small.
  const std::string padded = std::string(format) + " ";
  const std::time_t now = std::time(nullptr);
  std::tm local{};
  localtime_r(&now, &local);
  char buffer[16 * kTimeFormatMax];
  const size_t size = std::strftime(buffer, sizeof buffer, padded.c_str(), &local);
  if (size == 0) return call.run.error("strftime_now: the result is too long");
  return call.run.text({buffer, size - 1});
}

constexpr Callable kGlobals[] = {
    {"range", range, 1, {"(start)", "(stop)", "(step)"}},
    {"dict", dict, 0, {}, true},
    {"namespace", make_namespace, 0, {}, true},
    {"cycler", make_cycler, 0, {}, true},
    {"joiner", make_joiner, 0, {"sep"}},
    {"raise_exception", raise_exception, 1, {"message"}},
    {"strftime_now", strftime_now, 1, {"format"}},
};

}  // namespace

int find_global(std::string_view name) { return find_callable(kGlobals, name); }

Result<Value> call_global(Run& run, int id, const CallArguments& arguments) {
  return invoke(run, kGlobals[id], Value(), arguments);
}

}  // namespace skein::jinja
