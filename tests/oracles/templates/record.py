#!/usr/bin/env python3
"""Records what Jinja2 makes of our template corpus, for coordinator/template's oracle test.

    python3 tests/oracles/templates/record.py    # rewrites tests/oracles/fixtures/templates.json

Needs Jinja2 3.1.6 or later, nothing else. The corpus: expressions.txt (one per line), snippets/*.jinja (whitespace,
scoping, control flow; each rendered once) and families/*.jinja (in the style of published chat templates; each
rendered with every conversation of conversations.json).
"""

import json
import pathlib

import environment

HERE = pathlib.Path(__file__).parent
FIXTURE = HERE.parent / "fixtures" / "templates.json"


def read(path):
    return path.read_bytes().decode()


def main():
    jinja = environment.make()
    conversations = json.loads(read(HERE / "conversations.json"))
    sample = conversations["tools"]
    expressions = []
    for line in read(HERE / "expressions.txt").replace("\\\n", "\\\x01").splitlines():
        source = "{{ " + line.replace("\x01", "\n") + " }}"
        expressions.append([source, environment.render(jinja, source, {})])
    snippets = {}
    for path in sorted((HERE / "snippets").glob("*.jinja")):
        for index, source in enumerate(read(path).split("=====\n")):
            snippets[f"{path.stem} {index}"] = [source, environment.render(jinja, source, sample)]
    families = {}
    for path in sorted((HERE / "families").glob("*.jinja")):
        source = read(path)
        results = {name: environment.render(jinja, source, variables) for name, variables in conversations.items()}
        families[path.stem] = {"template": source, "results": results}
    fixture = {"expressions": expressions, "snippets": snippets, "families": families,
               "conversations": conversations}
    FIXTURE.write_text(json.dumps(fixture, ensure_ascii=False, separators=(",", ":")) + "\n")
    print(f"{len(expressions)} expressions, {len(snippets)} snippets, {len(families)} families: "
          f"{FIXTURE.stat().st_size} bytes")


if __name__ == "__main__":
    main()
