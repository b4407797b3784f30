#pragma once

#include <string>

#include "base/status.h"

// Files that keep what was found out at one start for the next. They are optional: whoever cannot read or write one
// goes on without.

namespace skein {

// What a variable of the environment names; empty: it is not set, or nothing that the XDG base directory specification
// lets count, which is what is empty or no absolute path.
std::string folder_in(const char* variable);

// This machine's folder of them: folder_in("XDG_CACHE_HOME")/skein, else systemd's CACHE_DIRECTORY, else ~/.cache/skein.
// It need not exist. Empty: there is none.
std::string cache_folder();

// Puts `lines`, each with its end, behind the file's others, where each is once, and makes its folder. The file is
// replaced at once: who reads meanwhile has all of them or none; of two who add at the same moment one may be lost.
Status add_to_cache_file(const std::string& path, const std::string& lines);

}  // namespace skein
