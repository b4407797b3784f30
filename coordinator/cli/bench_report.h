#pragma once

#include <optional>
#include <string>

#include "base/json.h"
#include "coordinator/cli/bench_load.h"

namespace skein {

// What the run says about itself: whether the schedule was kept, and by whose fault if not. Empty: it was.
std::string schedule_verdict(const LoadConfig& config, const LoadResult& result);

Json optional_json(const std::optional<double>& value);  // null where there is none
Json load_json(const std::string& url, const LoadConfig& config, const LoadResult& result);
std::string load_text(const std::string& url, const LoadConfig& config, const LoadResult& result);

}  // namespace skein
