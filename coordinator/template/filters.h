#pragma once

#include <string>
#include <string_view>

#include "coordinator/template/functions.h"

namespace skein::jinja {

// The index of a filter, or -1.
int find_filter(std::string_view name);
// Why there is none of that name.
std::string no_filter(std::string_view name);
// `filter` may be -1: fails with no_filter(name) then.
Result<Value> apply_filter(Run& run, int filter, std::string_view name, const Value& value,
                           const CallArguments& arguments);

// The bodies, for the table in filters.cpp.
Result<Value> filter_capitalize(const Call& call);
Result<Value> filter_center(const Call& call);
Result<Value> filter_escape(const Call& call);
Result<Value> filter_force_escape(const Call& call);
Result<Value> filter_format(const Call& call);
Result<Value> filter_indent(const Call& call);
Result<Value> filter_lower(const Call& call);
Result<Value> filter_replace(const Call& call);
Result<Value> filter_safe(const Call& call);
Result<Value> filter_string(const Call& call);
Result<Value> filter_title(const Call& call);
Result<Value> filter_tojson(const Call& call);
Result<Value> filter_trim(const Call& call);
Result<Value> filter_truncate(const Call& call);
Result<Value> filter_upper(const Call& call);
Result<Value> filter_urlencode(const Call& call);
Result<Value> filter_wordcount(const Call& call);

Result<Value> filter_abs(const Call& call);
Result<Value> filter_float(const Call& call);
Result<Value> filter_int(const Call& call);
Result<Value> filter_round(const Call& call);
Result<Value> filter_sum(const Call& call);

Result<Value> filter_attr(const Call& call);
Result<Value> filter_batch(const Call& call);
Result<Value> filter_default(const Call& call);
Result<Value> filter_first(const Call& call);
Result<Value> filter_items(const Call& call);
Result<Value> filter_join(const Call& call);
Result<Value> filter_last(const Call& call);
Result<Value> filter_length(const Call& call);
Result<Value> filter_list(const Call& call);
Result<Value> filter_reverse(const Call& call);
Result<Value> filter_slice(const Call& call);

Result<Value> filter_dictsort(const Call& call);
Result<Value> filter_groupby(const Call& call);
Result<Value> filter_max(const Call& call);
Result<Value> filter_min(const Call& call);
Result<Value> filter_sort(const Call& call);
Result<Value> filter_unique(const Call& call);

Result<Value> filter_map(const Call& call);
Result<Value> filter_reject(const Call& call);
Result<Value> filter_rejectattr(const Call& call);
Result<Value> filter_select(const Call& call);
Result<Value> filter_selectattr(const Call& call);

}  // namespace skein::jinja
