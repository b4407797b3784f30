#!/usr/bin/env python3
"""Counts what tests/run and the CI left under a folder: tests/results.py FOLDER

Reads ctest's and pytest's JUnit files, the GoogleTest reports of the programs that ctest ran (each case counts), and
outcomes.txt (lines "passed|failed|skipped NAME"). Prints what failed and, last, "N passed, N failed, N skipped".
Exit status 0 if something passed and nothing failed.
"""

import collections
import pathlib
import sys
import xml.etree.ElementTree as xml


def case_outcome(case):
    if case.find("failure") is not None or case.find("error") is not None or case.get("status") == "fail":
        return "failed"
    if case.find("skipped") is not None or case.get("status") in ("notrun", "disabled") or \
            case.get("result") in ("skipped", "suppressed"):
        return "skipped"
    return "passed"


def cases(path):
    for case in xml.parse(path).getroot().iter("testcase"):
        yield case_outcome(case), f"{case.get('classname')}.{case.get('name')}"


def ctest_cases(path):
    """A program that wrote a GoogleTest report counts by its cases; one that crashed counts as one failure more."""
    for program in xml.parse(path).getroot().iter("testcase"):
        outcome, name = case_outcome(program), program.get("name")
        report = path.parent / "gtest" / f"{name}_test.xml"
        if not report.exists():
            yield outcome, name
            continue
        inner = list(cases(report))
        yield from inner
        if outcome == "failed" and all(o != "failed" for o, _ in inner):
            yield outcome, f"{name} (the program itself)"


def outcome_lines(path):
    for line in path.read_text(encoding="utf-8").splitlines():
        outcome, _, name = line.partition(" ")
        if outcome not in ("passed", "failed", "skipped"):
            raise ValueError(f"{path}: '{line}' starts with no outcome")
        yield outcome, name


READERS = {"ctest.xml": ctest_cases, "python.xml": cases, "outcomes.txt": outcome_lines}


def main():
    root = pathlib.Path(sys.argv[1])
    counts = collections.Counter()
    for path in sorted(root.glob("*/*")):
        for outcome, name in READERS.get(path.name, lambda _: ())(path):
            counts[outcome] += 1
            if outcome != "passed":
                print(f"{outcome}: {path.parent.name}: {name}")
    print(f"{counts['passed']} passed, {counts['failed']} failed, {counts['skipped']} skipped")
    return 0 if counts["passed"] and not counts["failed"] else 1


if __name__ == "__main__":
    sys.exit(main())
