#pragma once

#include "topology/search.h"

namespace skein {

// What to change where there is no plan: kResourceExhausted, with what is missing.

// Of a packing that does not reach the goal's rate. Requires: it has replicas, and none is kept.
Status too_little(const Search& search, const Packing& packing);
Status nothing_fits(const Search& search);

}  // namespace skein
