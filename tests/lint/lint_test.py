#!/usr/bin/env python3
"""The lint finds what it should and nothing else: every rule gets a planted violation."""

import pathlib
import sys
import tempfile
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).parent))
import cpp_text  # noqa: E402
import lint  # noqa: E402

CLEAN = {
    "README.md": "# Tree\n\nSee [base](base/README.md#base).\n",
    "CMakeLists.txt": "project(tree)\n",
    "base/README.md": "# base\n",
    "base/status.h": "#pragma once\n\n#include <string>\n",
    "base/status.cpp": '#include "base/status.h"\n\nint f() { return 1; }\n',
    "comm/README.md": "# comm\n",
    "comm/messages.cpp": '#include <zmq.h>\n#include "base/status.h"\n',
    "comm/messages.h": "#pragma once\n",
    "comm/mpi.h": "#pragma once\n",
    "model/README.md": "# model\n",
    "model/shard.h": "#pragma once\n",
    "coordinator/README.md": "# coordinator\n",
    "coordinator/control/link.cpp": '#include "comm/messages.h"\n',
}


def body(lines):
    return "int long_one(int a) {\n" + "  a++;\n" * lines + "}\n"


# Name of the case -> (file, its text, what the sentence must say).
PLANTED = {
    "upward edge": ("base/a.cpp", '#include "model/shard.h"\n', "base/ may not include model/"),
    "sideways edge": ("model/a.h", '#pragma once\n#include "comm/messages.h"\n', "model/ may not include comm/"),
    "edge behind blanks": ("base/a.cpp", '  #  include  "model/shard.h"\n', "base/ may not include model/"),
    "coordinator sees part": ("coordinator/control/a.cpp", '#include "comm/mpi.h"\n', "coordinator may include only"),
    "subfolder edge": (
        "coordinator/http/a.cpp", '#include "comm/messages.h"\n', "coordinator/http/ may not include comm/"),
    "relative include": ("base/a.cpp", '#include "status.h"\n', "write the path from its root"),
    "library in a header": ("comm/a.h", "#pragma once\n#include <mpi.h>\n", "never in a header"),
    "library in a second source": ("comm/wire.cpp", "#include <zmq.h>\n", "ZeroMQ belongs in one source file"),
    "library outside its folder": ("base/a.cpp", "#include <boost/asio/post.hpp>\n", "coordinator/http/ only"),
    "threads in kvcache": ("kvcache/a.cpp", "#include <mutex>\n", "kvcache/ has no threads"),
    "long file": ("base/a.cpp", "int x;\n" * 601, "601 lines; split it"),
    "long root CMake": ("CMakeLists.txt", "project(tree)\n" * 151, "151 lines"),
    "long function": ("base/a.cpp", body(69), "long_one has 71 lines"),
    "long kernel": ("kernels/cpu/a.cpp", body(119), "long_one has 121 lines"),
    "long test": ("tests/unit/a_test.cpp", body(69).replace("int long_one(int a)", "TEST(A, B)"), "TEST has 71"),
    "long Python function": ("tests/a.py", "def f():\n" + "    pass\n" * 70, "f has 71 lines"),
    "long line": ("base/a.cpp", "//" + "a" * 119 + "\n", "121 columns"),
    "trailing blank": ("base/a.cpp", "int x; \n", "blanks at the end"),
    "no last line end": ("base/a.cpp", "int x;", "the last line has no end"),
    "promise": ("base/a.cpp", "// TODO: later\n", '"TODO"'),
    "not implemented": ("base/a.cpp", 'auto a = "not implemented";\n', '"not implemented"'),
    "long code beside a text": ("base/a.cpp", 'f("' + "a" * 99 + '", ' + "b" * 119 + ");\n", "columns"),
    "sleep": ("base/a.cpp", "void f() { std::this_thread::sleep_for(x); }\n", "sleep"),
    "usleep": ("base/a.cpp", "void f() { usleep(3); }\n", "usleep"),
    "sleep without its reason": ("base/a.cpp", "void f() { usleep(3); }  // allowed: yes\n", "usleep"),
    "system": ("base/a.cpp", 'void f() { std::system("ls"); }\n', "system: start programs"),
    "sprintf": ("base/a.cpp", 'void f() { sprintf(a, ""); }\n', "sprintf: it cannot know"),
    "stoi": ("base/a.cpp", "int f() { return std::stoi(a); }\n", "stoi: it hides"),
    "strtol": ("base/a.cpp", "int f() { return strtol(a, b, 10); }\n", "strtol: it accepts"),
    "catch all": ("base/a.cpp", "void f() { try { g(); } catch ( ... ) {} }\n", "catch (...)"),
    "detach": ("base/a.cpp", "void f() { thread.detach(); }\n", "a detached thread has no owner"),
    "silent skip": ("tests/unit/a_test.cpp", "TEST(A, B) { GTEST_SKIP(); }\n", "a skipped test says why"),
    "using namespace": ("base/a.h", "#pragma once\nusing namespace std;\n", "a header must not open"),
    "no pragma once": ("base/a.h", "int x;\n", "#pragma once"),
    "vague type": ("base/a.h", "#pragma once\nclass CacheManager;\n", '"Manager" in class CacheManager'),
    "vague file": ("base/string_utils.h", "#pragma once\n", '"Utils" in a file name'),
    "glob": ("base/CMakeLists.txt", "file(GLOB a *.cpp)\n", "listed, not globbed"),
    "test commented out": ("tests/CMakeLists.txt", "# add_test(NAME a)\n", "commented out"),
    "machine path": ("base/a.cpp", 'auto a = "/root/x";\n', "a path of one machine"),
    "no README": ("topology/a.cpp", "int x;\n", "topology/ has no README.md"),
    "long README": ("base/README.md", "# base\n" + "a\n" * 80, "81 lines; a folder's README"),
    "broken link": ("docs/README.md", "[a](missing.md)\n", "the link missing.md leads nowhere"),
    "broken anchor": ("docs/README.md", "[a](../README.md#nope)\n", "has no heading #nope"),
}

HARMLESS = {
    "a sleep with its reason": "void f() { usleep(3); }  // allowed: idle time is what it measures\n",
    "words in comments": "// system(x), std::stoi(y), catch (...) and thread.detach()\nint x;\n",
    "words in strings": 'auto a = "sprintf(buffer)"; auto b = R"(catch (...))";\n',
    "members of the same name": "void f() { file.system(1); p->gets(2); my::stoi(3); snprintf(a, 1); }\n",
    "digit separators": "int a = 1'000'000;\nint b = 2;\n",
    "a long text": 'auto a = "' + "word " * 40 + '";\n',
    "include in a comment": '// #include "model/shard.h"\n',
}


def lint_tree(files):
    with tempfile.TemporaryDirectory() as folder:
        root = pathlib.Path(folder)
        for path, text in files.items():
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_text(text, encoding="utf-8")
        return lint.lint(root)


class LintTest(unittest.TestCase):
    def test_clean_tree(self):
        self.assertEqual(lint_tree(CLEAN), [])

    def test_planted_violations(self):
        for case, (path, text, sentence) in PLANTED.items():
            with self.subTest(case):
                found = lint_tree(CLEAN | {path: text})
                hits = [f for f in found if f[0] == path and sentence in f[2]]
                self.assertEqual(len(hits), 1, f"found {found}")

    def test_harmless(self):
        for case, text in HARMLESS.items():
            with self.subTest(case):
                self.assertEqual(lint_tree(CLEAN | {"base/a.cpp": text}), [])


class FunctionsTest(unittest.TestCase):
    def spans(self, text):
        return list(cpp_text.functions(text))

    def test_forms(self):
        forms = {
            "int f() {\n}\n": ("f", 1, 2),
            "namespace a {\nclass B {\n  void g() const noexcept override {\n  }\n};\n}\n": ("g", 3, 4),
            "A::A(int x)\n    : b_{x}, c_(x) {\n  f();\n}\n": ("A::A", 1, 4),
            "template <class T>\nauto f(T t) -> int {\n}\n": ("f", 1, 3),
            "TEST(A, B) {\n  auto f = [] { return 1; };\n}\n": ("TEST", 1, 3),
            "struct A f(int a) {\n}\n": ("f", 1, 2),
        }
        for text, expected in forms.items():
            with self.subTest(text):
                self.assertEqual(self.spans(text), [expected])

    def test_not_functions(self):
        for text in ("int a[] = {1, 2};\n", "enum class A {\n  kB,\n};\n", "struct A {\n  int b = f(1);\n};\n"):
            with self.subTest(text):
                self.assertEqual(self.spans(text), [])


if __name__ == "__main__":
    unittest.main()
