#!/usr/bin/python3
# SPDX-License-Identifier: BSD-2-Clause
"""The UEFI program runs at an address that it is not linked for: it finds everything relative to itself, and calls nothing but
itself and the C library's memory functions, which do the same."""
import pathlib
import re
import subprocess
import sys

from sources import fail

RELATIVE = re.compile(r"R_X86_64_(PC32|PLT32)|R_AARCH64_(ADR_PREL_PG_HI21|ADD_ABS_LO12_NC|LDST\d+_ABS_LO12_NC|CALL26|JUMP26|PREL32)")
NEEDS = {"memcmp", "memcpy", "memset", "uefi_move", "uefi_move_end", "uefi_target", "__bss_start", "__image_start", "__image_end"}


def output(*words):
    return subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True).stdout.splitlines()


def main(build):
    objects = sorted(pathlib.Path(build).glob("*/obj/boot/uefi.o"))
    bad = [] if objects else [f"{build}: no boot/uefi.o"]
    for path in objects:
        section = ""
        for line in output("readelf", "-rW", path):
            section = line.split("'")[1] if line.startswith("Relocation section") else section
            kind = re.search(r" R_\w+", line)
            if kind and not RELATIVE.fullmatch(kind[0].strip()) and not section.startswith(".rela.debug"):
                bad.append(f"{path}: {kind[0].strip()} in {section}: an absolute address")
        for line in output("nm", "-u", path):
            if line.split()[-1] not in NEEDS:
                bad.append(f"{path}: uses {line.split()[-1]}")
    return fail(bad)


sys.exit(main(sys.argv[1]))
