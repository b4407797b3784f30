#pragma once

#include "coordinator/template/ast.h"

namespace skein::jinja {

// Fills in Frame::unset of every body in the tree, by Jinja's rules of where a name is local.
void find_unset_names(SyntaxTree* tree);

}  // namespace skein::jinja
