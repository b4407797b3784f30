# shellcheck shell=bash
# Stages of a CI run: each runs to its end, and finish() fails if one of them did. Needs scripts/steps.sh.

failed=()

stage() {
  local begun=$SECONDS status=0
  say "==== $*"
  "$@" </dev/null || status=$?
  ((status == 0)) || failed+=("$*")
  say "==== $*: exit status $status after $((SECONDS - begun)) s"
}

# PRESET SUITE...
sanitize() {
  scripts/build "$1" all && tests/run "$@"
}

# What of the CUDA backend needs no GPU: its compilation, and the tests of that build. Those that need one are skipped.
cuda_build() {
  scripts/build cuda all && tests/run cuda ctest python
}

finish() {
  local status=0 what
  for what in "${failed[@]}"; do
    status=1
    say "failed: $what"
  done
  say "$SECONDS s in all"
  python3 tests/results.py build/results || status=1
  exit "$status"
}
