#!/usr/bin/python3
# SPDX-License-Identifier: BSD-2-Clause
"""size.py BUILD: bytes of each folder in the linked firmware, from its map; then the pools."""
import collections
import pathlib
import re
import subprocess
import sys

KINDS = {"text": "text", "rodata": "text", "eh_frame": "text", "ksyms": "text",
         "data": "data", "reg": "data", "bss": "bss", "COMMON": "bss"}
# One input section in a map: name, address, size, file; a long name has a line of its own.
INPUT = re.compile(r"^ (\.?[A-Za-z_][^\s]*)\n? +0x[0-9a-f]+ +0x([0-9a-f]+) (\S+)$", re.M)


def kind_of(section):
    return KINDS.get(re.split(r"[._]", section.lstrip("."), maxsplit=1)[0]) or \
        KINDS.get(section.lstrip("."))


def folder_of(build, path):
    """The room of one of our objects (two levels for board/ and tools/), or lib/ and its name."""
    archive = re.search(r"lib(\w[\w-]*)\.a\(|newlib/(libc)\.a\(", path)
    if archive:
        return "lib/" + (archive[1] or "newlib")
    parts = path.partition("/obj/")[2].split("/")
    if parts == [""]:
        return "lib/other"
    return "/".join(parts[:2] if parts[0] == "board" and len(parts) > 2 else parts[:1])


def sizes(build, arch):
    text = (build / arch / "strongroom.map").read_text()
    text = text[text.index("Linker script and memory map"):]  # behind the discarded sections
    table = collections.defaultdict(collections.Counter)
    for section, size, path in INPUT.findall(text):
        kind = kind_of(section)
        if kind:
            table[folder_of(build, path)][kind] += int(size, 16)
    return table


def print_table(arch, table):
    print(f"{arch:20} {'text':>9} {'data':>9} {'bss':>9}")
    total = collections.Counter()
    for folder in sorted(table, key=lambda f: (f.startswith("lib/"), f)):
        row = table[folder]
        if any(row.values()):
            print(f"{folder:20} {row['text']:9} {row['data']:9} {row['bss']:9}")
            total += row
    print(f"{'sum':20} {total['text']:9} {total['data']:9} {total['bss']:9}\n")


def main(build):
    for path in sorted([*build.glob("*/strongroom.elf"), *build.glob("*/strongroom.img")]):
        print_table(path.parent.name, sizes(build, path.parent.name))
        print(f"{path}: {path.stat().st_size} bytes\n")
    subprocess.run([build / "host" / "strongroom", "--print-pools"], check=False)


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
