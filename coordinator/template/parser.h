#pragma once

#include "base/status.h"
#include "coordinator/template/ast.h"
#include "coordinator/template/chat_template.h"

namespace skein::jinja {

// Parses tree->source, which must be normalised and valid UTF-8, into the rest of the tree.
// kInvalidArgument: "line N: <cause>".
Status parse(const TemplateLimits& limits, SyntaxTree* tree);

}  // namespace skein::jinja
