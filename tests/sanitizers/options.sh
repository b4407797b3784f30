# shellcheck shell=bash
# How the sanitizers run in every test; sourced with the working directory at the tree's root.
suppressions=$PWD/tests/sanitizers
export ASAN_OPTIONS=detect_stack_use_after_return=1:strict_string_checks=1:detect_leaks=1
export LSAN_OPTIONS=suppressions=$suppressions/leaks.txt:print_suppressions=0
export UBSAN_OPTIONS=print_stacktrace=1:halt_on_error=1
# TSan's memmem marks the whole text as read at each search, which makes splitting a long text quadratic.
export TSAN_OPTIONS=suppressions=$suppressions/races.txt:halt_on_error=1:second_deadlock_stack=1:intercept_memmem=0
