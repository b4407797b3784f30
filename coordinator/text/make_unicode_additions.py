"""Writes unicode_additions.cpp: the characters of Unicode 15.0 to 16.0 by general category.

    make_unicode_additions.py > unicode_additions.cpp

Needs unicodedata2==16.0.0 and Python 3.11, whose own unicodedata is 14.0.
"""

import unicodedata

import unicodedata2

assert (unicodedata.unidata_version, unicodedata2.unidata_version) == ("14.0.0", "16.0.0")


def additions():
    """[category, first, last] of each run of characters that Unicode 14 lacks."""
    runs = []
    for code in range(0x110000):
        if unicodedata.category(chr(code)) != "Cn" or unicodedata2.category(chr(code)) == "Cn":
            continue
        category = unicodedata2.category(chr(code))
        if runs and runs[-1][0] == category and runs[-1][2] == code - 1:
            runs[-1][2] = code
        else:
            runs.append([category, code, code])
    return runs


def rows(entries, width=100):
    line = "   "
    for entry in entries:
        if len(line) + 1 + len(entry) > width:
            yield line
            line = "   "
        line += " " + entry
    yield line


def main():
    entries = [f'{{"{category}", 0x{first:X}, 0x{last:X}}},' for category, first, last in sorted(additions())]
    print('#include "coordinator/text/unicode_additions.h"\n')
    print("// Written by make_unicode_additions.py.\n")
    print("namespace skein::text {\nnamespace {\n")
    print("constexpr UnicodeAddition kAdditions[] = {")
    print("\n".join(rows(entries)))
    print("};\n\n}  // namespace\n")
    print("std::span<const UnicodeAddition> unicode_additions() { return kAdditions; }\n")
    print("}  // namespace skein::text")


if __name__ == "__main__":
    main()
