#include <cstdint>
#include <string_view>

#include "base/check.h"
#include "topology/cluster_file.h"
#include "topology/plan_file.h"

// Files that say what there is and who sits where. The first byte chooses the reader.
namespace {

using namespace skein;

// What was read can be written, and read again.
void read_cluster(std::string_view text) {
  const auto cluster = parse_cluster(text, 1000);
  if (!cluster.ok()) {
    CHECK(!cluster.status().message().empty());
    return;
  }
  CHECK(validate(*cluster).ok());
  CHECK(parse_cluster(to_yaml(*cluster)).ok());
}

void read_calibration(std::string_view text) {
  const auto calibration = parse_calibration(text);
  if (!calibration.ok()) {
    CHECK(!calibration.status().message().empty());
    return;
  }
  CHECK(parse_calibration(to_yaml(*calibration)).ok());
}

// Every place is one of the plan's own cluster.
void read_plan(std::string_view text) {
  const auto file = parse_plan(text);
  if (!file.ok()) {
    CHECK(!file.status().message().empty());
    return;
  }
  for (const PlacedReplica& replica : file->plan.replicas) {
    CHECK(static_cast<size_t>(replica.model) < file->models.size());
    CHECK_EQ(replica.devices.size(), replica.stages.size() * static_cast<size_t>(replica.tensor_parallel_size));
    for (const DeviceId& id : replica.devices) {
      CHECK(static_cast<size_t>(id.device) < file->cluster.nodes.at(static_cast<size_t>(id.node)).devices.size());
    }
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  const std::string_view text(reinterpret_cast<const char*>(data) + 1, size - 1);
  if (data[0] == 0) read_cluster(text);
  if (data[0] == 1) read_calibration(text);
  if (data[0] == 2) read_plan(text);
  return 0;
}
