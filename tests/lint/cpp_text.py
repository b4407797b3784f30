"""Reads C++ just well enough to lint it: blanks comments and literals, finds function bodies."""

import re

_TOKEN = re.compile(
    r"""(?P<raw>R"(?P<tag>[^()\\\s]{0,16})\(.*?\)(?P=tag)")"""
    r"""|(?P<line>//(?:\\\n|[^\n])*)"""
    r"""|(?P<block>/\*.*?\*/)"""
    r"""|(?P<string>"(?:\\.|[^"\\\n])*")"""
    r"""|(?P<number>\b\d[\w.']*)"""
    r"""|(?P<char>'(?:\\.|[^'\\\n])+')""",
    re.DOTALL,
)


def _blank(text):
    return re.sub(r"[^\n]", " ", text)


def without_comments(text):
    """Comments become spaces; literals stay. Line numbers stay."""
    return _TOKEN.sub(lambda m: _blank(m[0]) if m["line"] or m["block"] else m[0], text)


def code_only(text):
    """Comments and the insides of literals become spaces. Line numbers and columns stay."""

    def replace(match):
        whole = match[0]
        if match["number"]:
            return whole
        if match["string"] or match["char"]:
            return whole[0] + " " * (len(whole) - 2) + whole[-1]
        return _blank(whole)

    return _TOKEN.sub(replace, text)


_TYPE_OR_SPACE = re.compile(
    r"^\s*(?:template\s*<.*>\s*)?(?:inline\s+)?(namespace|class|struct|union|enum|extern\b)", re.DOTALL
)
_AFTER_PARAMETERS = re.compile(
    r"\)\s*(?:const|noexcept(?:\s*\(.*\))?|override|final|mutable|&&?|->[^{;]*|requires[^{;]*|\s)*$", re.DOTALL
)
_INITIALIZER_LIST = re.compile(r"\)\s*(?:noexcept\s*)?:\s*[\w:<>]+\s*[({]", re.DOTALL)


def _opens_function(head):
    if _TYPE_OR_SPACE.match(head) and not _AFTER_PARAMETERS.search(head):
        return False
    if _INITIALIZER_LIST.search(head):
        return re.search(r"[)}]\s*$", head) is not None  # else the brace initialises a member
    return _AFTER_PARAMETERS.search(head) is not None


def functions(text):
    """Yields (name, first line, last line) of every function body that is not inside another one."""
    code = re.sub(r"^[ \t]*#(?:\\\n|[^\n])*", lambda m: _blank(m[0]), code_only(text), flags=re.MULTILINE)
    scopes = []  # "space" (namespace or type), "function" or "other"
    head_begin = 0
    line = 1
    begun = None
    for i, c in enumerate(code):
        if c == "\n":
            line += 1
        inside = "function" in scopes
        if c == "{":
            head = code[head_begin:i]
            if not inside and _opens_function(head):
                scopes.append("function")
                begun = (_name_of(head), line - head.lstrip().count("\n"))
            elif not inside and _TYPE_OR_SPACE.match(head):
                scopes.append("space")
                head_begin = i + 1
            else:
                scopes.append("other")
        elif c == "}" and scopes:
            closed = scopes.pop()
            if closed == "function":
                yield (*begun, line)
            if closed != "other" and "function" not in scopes:
                head_begin = i + 1
        elif c == ";" and not inside and "other" not in scopes:
            head_begin = i + 1


def _name_of(head):
    names = re.findall(r"([~\w:]+|operator\S+)\s*\(", head)
    return names[0] if names else "(unnamed)"
