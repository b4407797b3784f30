# shellcheck shell=bash
# What the scripts share; sourced, never run. The sourcing script is named by $0 in every line printed.
name=${0##*/}

say() { echo "$name: $*"; }

die() {
  echo "$name: $*" >&2
  exit 1
}

# step LOG WHAT COMMAND...: one line before and one after; what the command prints goes to LOG, whose end is shown if
# it fails.
step() {
  local log=$1 what=$2 begun=$SECONDS
  shift 2
  say "$what ..."
  if ! "$@" >"$log" 2>&1 </dev/null; then
    tail -n 40 "$log" >&2
    die "$what failed after $((SECONDS - begun)) s; everything it printed is in $log"
  fi
  say "$what: done in $((SECONDS - begun)) s"
}

# Compilers at work at once: one per core, but each may need 2 GiB.
jobs_max() {
  local cores memory_kib limit
  cores=$(nproc)
  memory_kib=$(awk '$1 == "MemTotal:" { print $2 }' /proc/meminfo)
  limit=$(cat /sys/fs/cgroup/memory.max 2>/dev/null || echo max)
  if [ "$limit" != max ] && ((limit / 1024 < memory_kib)); then
    memory_kib=$((limit / 1024))
  fi
  local by_memory=$((memory_kib / (2 << 20)))
  ((by_memory >= 1)) || by_memory=1
  echo $((cores < by_memory ? cores : by_memory))
}
