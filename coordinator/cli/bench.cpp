#include "coordinator/cli/bench.h"

#include <algorithm>
#include <cstdio>

#include "base/nearest.h"
#include "coordinator/cli/options.h"

namespace skein {
namespace {

struct Bench {
  const char* name;
  int (*run)(const Arguments&);
  std::string (*help)();
};

constexpr Bench kBenches[] = {
    {"offline", bench_offline, bench_offline_help},
    {"serve", bench_serve, bench_serve_help},
};

}  // namespace

int bench_command(const Arguments& arguments) {
  const bool help = std::ranges::find(arguments, "--help") != arguments.end();
  const std::string name = arguments.empty() ? "" : arguments[0];
  std::vector<std::string> names;
  for (const Bench& bench : kBenches) {
    if (name == bench.name) {
      if (!help) return bench.run(Arguments(arguments.begin() + 1, arguments.end()));
      std::printf("%s", bench.help().c_str());
      return 0;
    }
    names.emplace_back(bench.name);
  }
  if (help) {
    std::printf("%s\n%s", bench_offline_help().c_str(), bench_serve_help().c_str());
    return 0;
  }
  const auto guess = nearest(name, names);
  return report(invalid_argument("usage: skein bench offline MODEL [flags], or skein bench serve --url URL [flags]" +
                                 (guess ? "; did you mean " + *guess + "?" : std::string())));
}

}  // namespace skein
