#!/usr/bin/python3
# SPDX-License-Identifier: BSD-2-Clause
"""Shape of a file: licence in line 1, no trailing blanks, at most 800 lines, functions of at most 70.

A longer function gives its reason in the line before it: /* long: a switch over all opcodes */
"""
import re
import sys

from sources import fail, sources

MAX_FILE, MAX_FUNCTION = 800, 70
LICENCE = re.compile(r"(//|/\*|#) SPDX-License-Identifier: BSD-2-Clause( \*/)?$")
LONG = re.compile(r"/\* long: \S.*\*/$")


def head(lines, brace):
    """Index of the first line of the function whose body opens at index BRACE."""
    first = brace
    while first > 0 and not re.match(r"$|[#}]|.*[;}]$|.*\*/$|//", lines[first - 1]):
        first -= 1
    return first


def long_functions(path, lines):
    brace = None
    for index, line in enumerate(lines):
        if line == "{":
            brace = index
        elif line == "}" and brace is not None:
            first = head(lines, brace)
            length = index - first + 1
            if length > MAX_FUNCTION and not (first and LONG.match(lines[first - 1])):
                yield f"{path}:{first + 1}: a function of {length} lines, and no /* long: reason */"
            brace = None


def main():
    bad = []
    for path, lines in sources():
        if not LICENCE.match(lines[0]):
            bad.append(f"{path}:1: no SPDX-License-Identifier: BSD-2-Clause")
        if len(lines) - 1 > MAX_FILE:
            bad.append(f"{path}: {len(lines) - 1} lines, more than {MAX_FILE}")
        bad += [f"{path}:{number}: trailing blanks"
                for number, line in enumerate(lines, 1) if line != line.rstrip()]
        if path.endswith(".c"):
            bad += long_functions(path, lines)
    return fail(bad)


sys.exit(main())
