#include "base/time_slice.h"

#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstdint>

namespace skein {
namespace {

constexpr uint64_t kShortNs = 100'000;  // the least that Linux takes

// struct sched_attr of linux/sched/types.h, first version; glibc has no wrapper before 2.41.
struct SchedAttributes {
  uint32_t size;
  uint32_t policy;
  uint64_t flags;
  int32_t nice;
  uint32_t priority;
  uint64_t runtime;  // of the normal policy: the slice; 0: the system's
  uint64_t deadline;
  uint64_t period;
};

bool get(SchedAttributes* attributes) {
  return syscall(SYS_sched_getattr, 0, attributes, sizeof *attributes, 0) == 0;
}

}  // namespace

bool set_time_slice(TimeSlice slice) {
  SchedAttributes attributes{};
  if (!get(&attributes) || attributes.policy != SCHED_OTHER) return false;
  attributes.size = sizeof attributes;
  attributes.runtime = slice == TimeSlice::kShort ? kShortNs : 0;
  if (syscall(SYS_sched_setattr, 0, &attributes, 0) != 0) return false;
  return get(&attributes) && (attributes.runtime == kShortNs) == (slice == TimeSlice::kShort);
}

}  // namespace skein
