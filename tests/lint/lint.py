#!/usr/bin/env python3
"""Holds the tree to its own rules: tests/lint/lint.py [ROOT]

Prints one sentence per violation, as path:line: what is wrong and what to do, and exits with 1 if there is any.
"""

import ast
import os
import pathlib
import re
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parent))
import cpp_text  # noqa: E402
import layers  # noqa: E402

FILE_LINES_MAX = 600
FUNCTION_LINES_MAX = 70
KERNEL_LINES_MAX = 120  # a kernel body may be longer, with a comment per stage
COLUMNS_MAX = 120  # write for 100; up to 120 where a break would read worse
README_LINES_MAX = 80
ROOT_CMAKE_LINES_MAX = 150

SKIPPED_FOLDERS = {"build", ".git", ".cache", "__pycache__", "node_modules"}
CPP = {".h", ".cpp", ".cu", ".cuh"}
TEXT = CPP | {".py", ".md", ".txt", ".cmake", ".yaml", ".yml", ".proto", ".sh", ".json", ".service", ".tpl"}

# A line may keep a forbidden call if it says why: `// allowed: time itself is what this test measures`.
EXCUSE = re.compile(r"//\s*allowed: (?:\S+\s+){3,}\S+")

FORBIDDEN_CALLS = {
    r"(?:std::)?this_thread::sleep_(?:for|until)": "wait for a condition with a deadline instead of sleeping",
    r"(?:u|nano)?sleep": "wait for a condition with a deadline instead of sleeping",
    r"system|popen": "start programs with posix_spawn or fork and exec, without a shell",
    r"alloca": "the stack has a fixed size; use a buffer of known size",
    r"strcpy|strcat|v?sprintf|gets": "it cannot know the size of its target; use std::string or snprintf",
    r"ato[ifl]|atoll|(?:std::)?sto(?:i|l|ul|ll|ull|f|d|ld)": "it hides bad input or throws; use std::from_chars",
    r"(?:std::)?strto(?:l|ul|ll|ull|f|d|ld|imax|umax)": "it accepts blanks and trailing text; use std::from_chars",
}
VAGUE = {"Manager", "Util", "Utils", "Helper", "Helpers", "Handler", "Processor", "Common", "Impl"}
PROMISES = re.compile(r"\b(?:TODO|FIXME|XXX)\b|\b[Nn]ot (?:yet )?implemented\b")  # HTTP's 501 has a capital I
TYPE_NAME = re.compile(r"^\s*(?:template\s*<.*>\s*)?(class|struct|union|enum class|enum|using)\s+(\w+)")
MACHINE_PATHS = re.compile(r"(?<![\w.])/(?:work|root|opt/wheels|tmp/skein)/")


def _lines(text):
    """By line feeds alone: str.splitlines() also splits at form feeds and the like, within a literal."""
    return text.removesuffix("\n").split("\n")


class File:
    def __init__(self, root, path):
        self.path = path.relative_to(root).as_posix()
        self.suffix = path.suffix
        self.text = path.read_text(encoding="utf-8", errors="replace")
        self.lines = _lines(self.text)

    def under(self, folder):
        return self.path.startswith(folder + "/")

    def is_script(self):
        return self.text.startswith("#!")


def read_tree(root):
    files = []
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(f for f in folders if f not in SKIPPED_FOLDERS and f != "fixtures" and f != "corpus")
        for name in sorted(names):
            path = pathlib.Path(folder, name)
            if path.is_symlink() or path.stat().st_size > 4 << 20:
                continue
            if path.suffix in TEXT or name in ("run", "Dockerfile") or not path.suffix and _starts_as_script(path):
                files.append(File(root, path))
    return files


def _starts_as_script(path):
    with open(path, "rb") as file:
        return file.read(2) == b"#!"


def _area(path, areas):
    fitting = [a for a in areas if path.startswith(a + "/")]
    return max(fitting, key=len) if fitting else None


def _includes(file):
    text = cpp_text.without_comments(file.text)
    for number, line in enumerate(_lines(text), 1):
        found = re.match(r'\s*#\s*include\s*([<"])([^>"]+)[>"]', line)
        if found:
            yield number, found[2], found[1] == '"'


def check_include_edges(files):
    known = {f.path for f in files}
    for file in files:
        if file.suffix not in CPP:
            continue
        source = _area(file.path, layers.MAY_INCLUDE)
        for number, target, quoted in _includes(file):
            if not quoted or target.endswith(".pb.h"):
                continue
            if target not in known:
                yield file, number, f'there is no "{target}" in this tree; write the path from its root'
                continue
            aim = _area(target, layers.MAY_INCLUDE)
            if source is None or aim is None or aim == source:
                continue
            if aim not in layers.MAY_INCLUDE[source]:
                yield file, number, f"{source}/ may not include {aim}/ (tests/lint/layers.py has the table)"
            elif source.startswith("coordinator") and target not in layers.COORDINATOR_SEES.get(aim, [target]):
                seen = ", ".join(layers.COORDINATOR_SEES[aim])
                yield file, number, f"of {aim}/ the coordinator may include only {seen}"


def check_libraries(files):
    for library, (pattern, folder) in layers.LIBRARIES.items():
        users = []
        for file in files:
            if file.suffix not in CPP or file.under("tests"):
                continue
            hits = [n for n, target, _ in _includes(file) if re.fullmatch(pattern, target)]
            if hits:
                users.append((file, hits[0]))
        if folder:
            for file, number in users:
                if not file.under(folder):
                    yield file, number, f"{library} is used in {folder}/ only; wrap it there"
            continue
        for file, number in users:
            if file.suffix in (".h", ".cuh"):
                yield file, number, f"{library} belongs in one source file, never in a header"
        sources = [u for u in users if u[0].suffix not in (".h", ".cuh")]
        for file, number in sources[1:]:
            yield file, number, f"{library} belongs in one source file, and {sources[0][0].path} has it"


def check_banned_headers(files):
    for folder, (pattern, why) in layers.BANNED_HEADERS.items():
        for file in files:
            if file.suffix in CPP and file.under(folder):
                for number, target, quoted in _includes(file):
                    if not quoted and re.fullmatch(pattern, target):
                        yield file, number, f"{why}, so <{target}> has no place here"


def check_file_size(files):
    for file in files:
        if file.suffix in CPP | {".py", ".proto"} or file.is_script():
            if len(file.lines) > FILE_LINES_MAX:
                yield file, 1, f"{len(file.lines)} lines; split it (at most {FILE_LINES_MAX})"
        if file.path == "CMakeLists.txt" and len(file.lines) > ROOT_CMAKE_LINES_MAX:
            yield file, 1, f"{len(file.lines)} lines; move parts to their folders (at most {ROOT_CMAKE_LINES_MAX})"


def _function_spans(file):
    if file.suffix in CPP:
        yield from cpp_text.functions(file.text)
    elif file.suffix == ".py" or file.text.startswith("#!/usr/bin/env python3"):
        for node in ast.walk(ast.parse(file.text)):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                yield node.name, node.lineno, node.end_lineno


def check_function_length(files):
    for file in files:
        limit = KERNEL_LINES_MAX if file.under("kernels/cpu") or file.under("kernels/cuda") else FUNCTION_LINES_MAX
        for name, first, last in _function_spans(file):
            if last - first + 1 > limit:
                yield file, first, f"{name} has {last - first + 1} lines; split it (at most {limit})"


def check_lines(files):
    for file in files:
        # Prose wraps itself, and data has the lines it has.
        is_data = file.suffix in (".json", ".txt") and not file.path.endswith("CMakeLists.txt")
        wide_is_fine = is_data or file.suffix == ".md"
        # Nor is a text broken for its width: what is between quotes does not count.
        bare = _lines(re.sub(r'"(?:\\.|[^"\\\n])*"', '""', file.text))
        for number, line in enumerate(file.lines, 1):
            if not wide_is_fine and len(line) > COLUMNS_MAX and len(bare[number - 1]) > COLUMNS_MAX:
                yield file, number, f"{len(line)} columns; break the line (100 is the aim, {COLUMNS_MAX} the limit)"
            if line != line.rstrip() and file.suffix != ".md":
                yield file, number, "blanks at the end of the line"
        if file.text and not file.text.endswith("\n"):
            yield file, len(file.lines), "the last line has no end"


def check_promises(files):
    for file in files:
        for number, line in enumerate(file.lines, 1):
            found = PROMISES.search(line)
            if found:
                yield file, number, f'"{found[0]}": do it now, or refuse with a sentence that says what to change'


def check_calls(files):
    for file in files:
        if file.suffix not in CPP:
            continue
        code = cpp_text.code_only(file.text)
        for number, line in enumerate(_lines(code), 1):
            if EXCUSE.search(file.lines[number - 1]):
                continue
            for call, advice in FORBIDDEN_CALLS.items():
                found = re.search(rf"(?<![\w.>:])(?:std::|::)?({call})\s*\(", line)
                if found:
                    yield file, number, f"{found[1]}: {advice}"
            if re.search(r"\bcatch\s*\(\s*\.\.\.\s*\)", line):
                yield file, number, "catch (...) hides what went wrong; name the exception"
            if re.search(r"[\w)]\s*(?:\.|->)detach\s*\(\s*\)", line):
                yield file, number, "a detached thread has no owner; join it"
            if re.search(r"\bGTEST_SKIP\s*\(\s*\)\s*;", line):
                yield file, number, 'a skipped test says why: GTEST_SKIP() << "..."'
            if file.suffix == ".h" and re.search(r"\busing\s+namespace\b", line):
                yield file, number, "a header must not open a namespace for those who include it"
        if file.suffix in (".h", ".cuh") and "#pragma once" not in file.lines:
            yield file, 1, "the header lacks #pragma once"


def check_names(files):
    for file in files:
        if file.suffix not in CPP | {".py"}:
            continue
        stem = pathlib.PurePosixPath(file.path).stem
        parts = {part.capitalize() for part in stem.split("_")}
        for part in sorted(parts & VAGUE):
            yield file, 1, f'"{part}" in a file name says nothing; name the thing, not its role'
        code = cpp_text.code_only(file.text) if file.suffix in CPP else file.text
        for number, line in enumerate(_lines(code), 1):
            for kind, name in TYPE_NAME.findall(line):
                for part in sorted(set(re.findall(r"[A-Z][a-z0-9]*", name)) & VAGUE):
                    yield file, number, f'"{part}" in {kind} {name} says nothing; name the thing, not its role'


def check_cmake(files):
    for file in files:
        if pathlib.PurePosixPath(file.path).name == "CMakeLists.txt" or file.suffix == ".cmake":
            for number, line in enumerate(file.lines, 1):
                if re.search(r"file\s*\(\s*GLOB", line):
                    yield file, number, "sources are listed, not globbed"
                if re.match(r"\s*#\s*(?:add_test|skein_unit_test)\s*\(", line):
                    yield file, number, "a test is commented out; mend it or delete it"


def check_machine_paths(files):
    for file in files:
        for number, line in enumerate(file.lines, 1):
            found = MACHINE_PATHS.search(line)
            if found:
                yield file, number, f"{found[0]} is a path of one machine; use one that exists everywhere"


def check_readmes(files):
    by_path = {f.path: f for f in files}
    top = sorted({f.path.split("/")[0] for f in files if "/" in f.path and not f.path.startswith(".")})
    for folder in top:
        readme = by_path.get(f"{folder}/README.md")
        if readme is None:
            first = next(f for f in files if f.under(folder))
            yield first, 1, f"{folder}/ has no README.md: purpose, owned state, invariants, what it refuses to do"
        elif len(readme.lines) > README_LINES_MAX:
            yield readme, 1, f"{len(readme.lines)} lines; a folder's README has at most {README_LINES_MAX}"


def _anchors(text):
    for heading in re.findall(r"^#+\s+(.*)$", text, re.MULTILINE):
        plain = re.sub(r"[`*_]", "", heading).strip().lower()
        yield re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")


def check_links(files, root):
    for file in files:
        if file.suffix != ".md":
            continue
        folder = (root / file.path).parent
        for number, line in enumerate(re.sub(r"`[^`\n]*`", "", file.text).splitlines(), 1):
            for target in re.findall(r"\]\(([^)\s]+)\)", line):
                if re.match(r"[a-z]+:", target):
                    continue
                path, _, anchor = target.partition("#")
                aim = folder / path if path else root / file.path
                if not aim.exists():
                    yield file, number, f"the link {target} leads nowhere"
                elif anchor and aim.suffix == ".md" and anchor not in _anchors(aim.read_text(encoding="utf-8")):
                    yield file, number, f"{path or file.path} has no heading #{anchor}"


def lint(root):
    """All violations in the tree under root, as (path, line, sentence), sorted."""
    files = read_tree(root)
    # The lint's own sources name what they forbid.
    quotable = [f for f in files if not f.under("tests/lint")]
    found = []
    for check in (check_include_edges, check_libraries, check_banned_headers, check_file_size, check_function_length,
                  check_lines, check_names, check_cmake, check_readmes):
        found += check(files)
    for check in (check_promises, check_calls, check_machine_paths):
        found += check(quotable)
    found += check_links(files, root)
    return sorted((file.path, number, sentence) for file, number, sentence in found)


def main():
    root = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else pathlib.Path(__file__).parents[2]).resolve()
    found = lint(root)
    for path, number, sentence in found:
        print(f"{path}:{number}: {sentence}")
    print(f"lint: {len(found)} violations" if found else "lint: no violations")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
