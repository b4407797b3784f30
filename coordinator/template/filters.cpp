#include "coordinator/template/filters.h"

#include <algorithm>

namespace skein::jinja {
namespace {

constexpr Callable kFilters[] = {
    {"abs", filter_abs},
    {"attr", filter_attr, 1, {"name"}},
    {"batch", filter_batch, 1, {"linecount", "fill_with"}, false, true},
    {"capitalize", filter_capitalize},
    {"center", filter_center, 0, {"width"}},
    {"count", filter_length},
    {"d", filter_default, 0, {"default_value", "boolean"}},
    {"default", filter_default, 0, {"default_value", "boolean"}},
    {"dictsort", filter_dictsort, 0, {"case_sensitive", "by", "reverse"}},
    {"e", filter_escape},
    {"escape", filter_escape},
    {"first", filter_first},
    {"float", filter_float, 0, {"default"}},
    {"forceescape", filter_force_escape},
    {"format", filter_format, 0, {}, true},
    {"groupby", filter_groupby, 1, {"attribute", "default", "case_sensitive"}},
    {"indent", filter_indent, 0, {"width", "first", "blank"}},
    {"int", filter_int, 0, {"default", "base"}},
    {"items", filter_items, 0, {}, false, true},
    {"join", filter_join, 0, {"d", "attribute"}},
    {"last", filter_last},
    {"length", filter_length},
    {"list", filter_list},
    {"lower", filter_lower},
    {"map", filter_map, 0, {}, true, true},
    {"max", filter_max, 0, {"case_sensitive", "attribute"}},
    {"min", filter_min, 0, {"case_sensitive", "attribute"}},
    {"reject", filter_reject, 0, {}, true, true},
    {"rejectattr", filter_rejectattr, 0, {}, true, true},
    {"replace", filter_replace, 2, {"old", "new", "count"}},
    {"reverse", filter_reverse},
    {"round", filter_round, 0, {"precision", "method"}},
    {"safe", filter_safe},
    {"select", filter_select, 0, {}, true, true},
    {"selectattr", filter_selectattr, 0, {}, true, true},
    {"slice", filter_slice, 1, {"slices", "fill_with"}, false, true},
    {"sort", filter_sort, 0, {"reverse", "case_sensitive", "attribute"}},
    {"string", filter_string},
    {"sum", filter_sum, 0, {"attribute", "start"}},
    {"title", filter_title},
    {"tojson", filter_tojson, 0, {"ensure_ascii", "indent", "separators", "sort_keys"}},
    {"trim", filter_trim, 0, {"chars"}},
    {"truncate", filter_truncate, 0, {"length", "killwords", "end", "leeway"}},
    {"unique", filter_unique, 0, {"case_sensitive", "attribute"}, false, true},
    {"upper", filter_upper},
    {"urlencode", filter_urlencode},
    {"wordcount", filter_wordcount},
};

// Jinja has these; no chat template needs them.
constexpr std::string_view kUnsupported[] = {"filesizeformat", "pprint",   "random", "striptags",
                                             "urlize",         "wordwrap", "xmlattr"};

}  // namespace

int find_filter(std::string_view name) { return find_callable(kFilters, name); }

std::string no_filter(std::string_view name) {
  const bool known =
      std::find(std::begin(kUnsupported), std::end(kUnsupported), name) != std::end(kUnsupported);
  const std::string quoted = "'" + std::string(name.substr(0, 100)) + "'";
  return known ? "the filter " + quoted + " is not supported in chat templates"
               : "there is no filter " + quoted;
}

Result<Value> apply_filter(Run& run, int filter, std::string_view name, const Value& value,
                           const CallArguments& arguments) {
  if (filter < 0) return run.error(no_filter(name));
  return invoke(run, kFilters[filter], value, arguments);
}

}  // namespace skein::jinja
