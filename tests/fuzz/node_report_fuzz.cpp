#include <cstdint>
#include <string_view>

#include "base/check.h"
#include "topology/node_report.h"

// What an agent says of its node: whatever is read describes one node of the agent's name, and is a cluster by itself.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace skein;
  const auto report = parse_node_report(std::string_view(reinterpret_cast<const char*>(data), size), "a");
  if (!report.ok()) {
    CHECK(!report.status().message().empty());
    return 0;
  }
  if (report->cluster) {
    CHECK(report->cluster->nodes.size() == 1 && report->cluster->nodes.front().name == "a");
    CHECK(join_nodes({{.hardware = &*report->cluster, .network = "", .use = {}}}).ok());
  }
  CHECK(to_text(*report).size() <= kNodeReportBytesMax);
  return 0;
}
