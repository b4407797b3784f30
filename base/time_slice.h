#pragma once

namespace skein {

// How long a thread may run before others on its core get their turn. One that wakes takes the core at once from one
// whose slice is longer, and would else wait for its end, some milliseconds: threads that pass requests and tokens on
// have short slices, those with which CPUs compute a step the system's own. All get their share all the same.
enum class TimeSlice {
  kSystem,  // of the system's choice, up to 3 ms
  kShort,   // 0.1 ms
};

// For the calling thread, and the threads and programs that it starts from then on. False: nothing changed. Linux has
// short slices since 6.12, for threads that are scheduled in the normal way.
bool set_time_slice(TimeSlice slice);

}  // namespace skein
