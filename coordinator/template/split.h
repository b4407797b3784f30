#pragma once

#include "coordinator/template/functions.h"

namespace skein::jinja {

// Methods of strings that give several strings.
Result<Value> split_method(const Call& call);
Result<Value> rsplit_method(const Call& call);
Result<Value> splitlines_method(const Call& call);
Result<Value> partition_method(const Call& call);
Result<Value> rpartition_method(const Call& call);

}  // namespace skein::jinja
