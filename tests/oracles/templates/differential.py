#!/usr/bin/env python3
"""Compares coordinator/template with Jinja2 on random templates.

    python3 tests/oracles/templates/differential.py build/cpu/bin/template_render [--count 5000] [--seed 1]

Prints every disagreement and exits with status 1 if there is one. Where both fail, any two messages agree, except that
ours must contain raise_exception's.
"""

import argparse
import copy
import functools
import json
import random
import subprocess
import sys
import warnings

import environment

# Known differences: integers beyond 64 bits and what we refuse on purpose.
REFUSED = ("out of range", "is not supported", "are not supported", "takes more than", "too large",
           "more than", "needs a type", "does not work on escaped text", "type LoopContext")
# Addresses and orders that Python does not promise.
UNSTABLE = ("object at 0x", "<function", "<built-in", "<bound method", "<class ", "<macro", "<jinja2")

LAZY = ["map", "select", "reject", "selectattr", "rejectattr", "unique", "batch", "slice", "items", "reverse"]


class Lazy:
    """A generator that prints without its address."""

    def __init__(self, items):
        self.items = items

    def __iter__(self):
        return self

    def __next__(self):
        return next(self.items)

    def __repr__(self):
        return "<generator object>"


def lazily(function):
    @functools.wraps(function)
    def call(*args, **kwargs):
        result = function(*args, **kwargs)
        return result if isinstance(result, (str, list)) else Lazy(result)
    return call


VARIABLES = {
    "i": 7, "n": -3, "z": 0, "f": 2.5, "g": -0.125, "t": True, "no": False, "nil": None,
    "s": "Hello, World", "e": "", "u": "Ünï 日本😀\u00a0x", "w": "  spaced\tout \n", "d": "42", "m": "a-b_c d(e",
    "l": [3, 1, 2], "ll": [[1, 2], [3]], "ls": ["b", "A", "c", "a"], "le": [], "mix": [1, "a", None, 2.5, [1], {"k": 1}],
    "o": {"a": 1, "b": {"c": [1, 2]}, "items": 5}, "oe": {},
    "os": [{"n": "x", "v": 2, "r": "user"}, {"n": "y", "v": 1}, {"n": "X", "v": 3, "r": "tool"}],
}
NAMES = list(VARIABLES) + ["missing", "loop"]
LITERALS = ["0", "1", "2", "-1", "10", "1.5", "1e3", "'a'", "'ab'", "''", "' x '", "'é'", "'%s'", "'{}'", "true", "false",
            "none", "[]", "{}", "()", "[1, 2]", "('a', 'b')", "{'a': 1}", "'\\n'", "\"q'q\"", "'b'", "3"]
HASHABLE = [each for each in LITERALS if each[0] not in "[{"]
BINARY = ["+", "-", "*", "/", "//", "%", "~", "==", "!=", "<", ">", "<=", ">=", "in", "not in", "and", "or", "**"]
ATTRIBUTES = ["a", "b", "c", "n", "v", "items", "0", "upper", "x", "grouper", "first"]
METHODS = ["upper()", "lower()", "strip()", "title()", "split()", "capitalize()", "splitlines()", "items()", "keys()",
           "values()", "isdigit()", "isalpha()", "isspace()", "swapcase()", "copy()", "istitle()", "islower()", "casefold()",
           "split({})", "replace({}, {})", "join({})", "startswith({})", "endswith({})", "find({})", "rfind({})", "count({})",
           "index({})", "get({})", "get({}, {})", "strip({})", "lstrip({})", "rstrip({})", "split({}, {})", "rsplit({}, {})",
           "center({})", "ljust({})", "rjust({}, {})", "zfill({})", "format({}, {})", "partition({})", "rpartition({})",
           "removeprefix({})", "append({})", "find({}, {})", "startswith({}, {})", "rsplit()", "splitlines({})"]
FILTERS = ["upper", "lower", "title", "capitalize", "trim", "length", "count", "first", "last", "list", "string", "int",
           "float", "abs", "round", "sort", "unique", "reverse", "sum", "min", "max", "join", "tojson", "items", "dictsort",
           "escape", "safe", "indent", "wordcount", "urlencode", "default({})", "d({}, true)", "join({})", "replace({}, {})",
           "batch({n})", "slice({n})", "map('upper')", "map(attribute={})", "map('length')", "map('string')",
           "map('default', {})", "select", "select('odd')", "select('string')", "select('defined')", "reject('none')",
           "selectattr({})", "selectattr({}, 'equalto', {})", "selectattr({}, 'defined')", "rejectattr({})",
           "select('gt', {})", "select('in', {})", "sort(reverse=true)", "sort(attribute={})", "sort(case_sensitive=true)",
           "unique(true)", "sum(attribute={})", "min(attribute={})", "groupby({})", "tojson(indent={n})",
           "tojson(sort_keys=true)", "round({})", "round({}, 'floor')", "int({})", "center({})", "truncate({n})",
           "truncate({n}, true, '')", "indent({}, true)", "format({}, {})", "trim({})", "attr({})", "dictsort(by='value')",
           "map(attribute={}, default={})", "forceescape", "e"]
TESTS = ["defined", "undefined", "none", "string", "number", "integer", "float", "boolean", "mapping", "iterable", "sequence",
         "true", "false", "odd", "even", "lower", "upper", "callable", "escaped", "eq({})", "ne {}", "lt({})", "gt {}",
         "in({})", "divisibleby({})", "sameas {}", "equalto({})", "ge({})"]


class Generator:
    def __init__(self, seed):
        self.random = random.Random(seed)

    def pick(self, options):
        return self.random.choice(options)

    def fill(self, pattern, depth):
        pattern = pattern.replace("{n}", self.pick(["1", "2", "3", "i"]))
        while "{}" in pattern:
            small = self.pick(LITERALS + ["'" + a + "'" for a in ATTRIBUTES] + ["2", "5"] * 4)
            pattern = pattern.replace("{}", small if self.random.random() < 0.8 else f"({self.expression(depth - 1)})", 1)
        return pattern

    def primary(self):
        return self.pick(NAMES) if self.random.random() < 0.65 else self.pick(LITERALS)

    def index(self):
        return self.pick(["0", "1", "-1", "5", "'a'", "'n'", "i", "z"])

    def slice(self):
        return ":".join(self.pick(["", "0", "1", "-1", "2", "-2", "9", "-9"]) for _ in range(self.pick([2, 2, 3])))

    def expression(self, depth):
        if depth <= 0:
            return self.primary()
        sub = lambda: self.expression(depth - 1)
        kind = self.random.random()
        if kind < 0.2:
            return f"{sub()} {self.pick(BINARY)} {sub()}"
        if kind < 0.45:
            return f"{self.primary() if self.random.random() < 0.6 else '(' + sub() + ')'}|{self.fill(self.pick(FILTERS), depth)}"
        if kind < 0.52:
            return f"{self.primary()} is {self.pick(['', 'not '])}{self.fill(self.pick(TESTS), depth)}"
        if kind < 0.66:
            return f"{self.primary()}.{self.fill(self.pick(METHODS), depth)}"
        if kind < 0.72:
            return f"{self.primary()}.{self.pick(ATTRIBUTES)}"
        if kind < 0.78:
            # Not of literals: Jinja folds those at compile time, and then forgives bad slices.
            return f"{self.pick(NAMES)}[{self.index() if self.random.random() < 0.5 else self.slice()}]"
        if kind < 0.82:
            return f"({sub()})"
        if kind < 0.86:
            return f"{self.pick(['not ', '-', '+'])}{sub()}"
        if kind < 0.9:
            return f"{sub()} if {sub()}{self.pick(['', ' else ' + self.primary()])}"
        if kind < 0.94:
            return f"[{sub()}, {sub()}]"
        if kind < 0.96:
            return f"{{{self.pick(HASHABLE)}: {sub()}}}"
        return f"({sub()}|{self.pick(FILTERS[:29])})|{self.fill(self.pick(FILTERS), depth)}"

    def tag(self, text):
        return "{%" + self.pick(["", "", "-", "+"]) + f" {text} " + self.pick(["", "", "-", "+"]) + "%}"

    def data(self):
        return self.pick(["", "", "\n", " ", "x", "\n  ", "  \n\n", "a\nb", "{", "\t"])

    def statement(self, depth):
        body = lambda: self.block(depth - 1)
        kind = self.pick(["print"] * 4 + ["if", "for", "set", "for", "with", "macro", "setblock", "filter", "comment", "raw",
                                         "namespace"])
        expression = self.expression(2)
        if kind == "print" or depth <= 0:
            return "{{" + self.pick(["", "-"]) + f" {expression} " + self.pick(["", "-"]) + "}}"
        if kind == "if":
            other = self.tag("else") + body() if self.random.random() < 0.5 else ""
            return self.tag(f"if {expression}") + body() + other + self.tag("endif")
        if kind == "for":
            target = self.pick(["x", "x", "x", "x, y", "i"])
            condition = f" if {self.expression(1)}" if self.random.random() < 0.2 else ""
            jump = self.tag(f"if {self.expression(1)}") + self.tag(self.pick(["break", "continue"])) + self.tag("endif")
            jump = jump if self.random.random() < 0.2 else ""
            other = self.tag("else") + body() if self.random.random() < 0.2 else ""
            source = self.pick(["l", "ls", "os", "ll", "o.items()", "s", "range(3)", "o", self.expression(1)])
            uses = self.pick(["", "{{ loop.index }}", "{{ loop.last }}", "{{ loop.length }}", "{{ x }}",
                              "{{ loop.previtem }}{{ loop.nextitem }}", "{{ loop.revindex }}{{ loop.first }}"])
            return (self.tag(f"for {target} in {source}{condition}") + jump + uses + body() + other + self.tag("endfor"))
        if kind == "set":
            return self.tag(f"set {self.pick(['x', 'i', 's', 'l', 'missing'])} = {expression}")
        if kind == "with":
            return self.tag(f"with x = {expression}") + body() + self.tag("endwith")
        if kind == "macro":
            name = self.pick(["m1", "m2"])
            call = self.pick([f"{name}({self.primary()})", f"{name}()", f"{name}(b={self.primary()})", f"{name}(1, 2)"])
            return (self.tag(f"macro {name}(a, b={self.primary()})") + body() + "{{ a }}{{ b }}" + self.tag("endmacro") +
                    "{{ " + call + " }}")
        if kind == "setblock":
            return self.tag("set x" + self.pick(["", " | upper", " | trim"])) + body() + self.tag("endset")
        if kind == "filter":
            return self.tag("filter " + self.pick(["upper", "trim", "replace('a', 'b')", "indent"])) + body() + self.tag("endfilter")
        if kind == "comment":
            return "{#" + self.pick(["", "-"]) + " {{ x }} " + self.pick(["", "-", "+"]) + "#}"
        if kind == "raw":
            return self.tag("raw").replace("+", "") + " {{ x }} {% y %}\n " + self.tag("endraw")
        return self.tag("set ns = namespace(v=0)") + self.tag("for x in l") + self.tag("set ns.v = ns.v + x") + self.tag(
            "endfor") + "{{ ns.v }}"

    def block(self, depth):
        return "".join(self.data() + self.statement(depth) for _ in range(self.pick([1, 1, 2, 3]))) + self.data()

    def template(self):
        if self.random.random() < 0.6:
            return "{{ " + self.expression(self.pick([1, 2, 3])) + " }}"
        return self.block(3)


def agree(want, got):
    if "ok" in want and "ok" in got:
        return want["ok"] == got["ok"] or any(mark in want["ok"].lower() for mark in UNSTABLE)
    if "ok" in want:
        return any(mark in got["error"] for mark in REFUSED)
    if "ok" in got:
        return False
    return want.get("raised", "") in got["error"]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("program")
    parser.add_argument("--count", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    jinja = environment.make()
    for name in LAZY:
        jinja.filters[name] = lazily(jinja.filters[name])
    generator = Generator(arguments.seed)
    templates = [generator.template() for _ in range(arguments.count)]
    lines = "".join(json.dumps({"template": each, "variables": VARIABLES}) + "\n" for each in templates)
    answers = subprocess.run([arguments.program], input=lines, capture_output=True, text=True, check=True).stdout
    failures = succeeded = 0
    for template, line in zip(templates, answers.split("\n"), strict=False):
        want = environment.render(jinja, template, copy.deepcopy(VARIABLES))
        got = json.loads(line)
        succeeded += "ok" in want
        if not agree(want, got):
            failures += 1
            print(f"{template!r}\n  want {want}\n  got  {got}")
    print(f"{arguments.count} templates, {succeeded} render, {failures} disagreements")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
