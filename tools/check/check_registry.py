#!/usr/bin/python3
# SPDX-License-Identifier: BSD-2-Clause
"""The firmware and the host form register the same things, except for what a board decides.

Names come from the symbols reg_<kind>_<name> of the objects; each must also be in the linked
program, which the linker's garbage collection could have taken it from.
"""
import pathlib
import re
import subprocess
import sys

from sources import fail

# Rooms whose files exist on some boards only: a disk driver needs a bus, `file` a file system.
BOARD_BOUND = ("boot/", "board/", "virtio/", "ahci/")
PROGRAMS = {"x86_64": "strongroom.debug.elf", "aarch64": "strongroom.debug.elf", "host": "strongroom"}


def registered(*files):
    out = subprocess.run(["nm", *map(str, files)], check=True, text=True, capture_output=True).stdout
    return set(re.findall(r"^[0-9a-f]+ \w (reg_\w+)$", out, re.M))


def main(build):
    bad, shared = [], {}
    for form, program in PROGRAMS.items():
        objects = build / form / "objects"
        if not (build / form / program).exists():
            continue
        objects = objects.read_text().split()
        linked = registered(build / form / program)
        bad += [f"{form}: {name} is in an object but not in the program: is its section kept?"
                for name in sorted(registered(*objects) - linked)]
        prefix = f"{build}/{form}/obj/"
        shared[form] = registered(*[o for o in objects
                                    if not o.removeprefix(prefix).startswith(BOARD_BOUND)])
    for form in shared.keys() - {"host"}:
        for name in sorted(shared[form] ^ shared.get("host", shared[form])):
            only = form if name in shared[form] else "host"
            bad.append(f"{name} is registered in the {only} form only")
    return fail(bad)


sys.exit(main(pathlib.Path(sys.argv[1])))
