#!/usr/bin/python3
# SPDX-License-Identifier: BSD-2-Clause
"""Stack frames of the block layer stay below 512 bytes: a graph may be 512 nodes deep."""
import pathlib
import sys

from sources import fail

LIMIT, ROOMS, ARCHES = 512, ("blk", "formats"), ("x86_64", "aarch64")


def main(build):
    bad = []
    for usage in pathlib.Path(build).glob("*/obj/**/*.su"):
        form, _, room = usage.relative_to(build).parts[:3]
        if form not in ARCHES or room not in ROOMS or not usage.with_suffix(".o").exists():
            continue
        for line in usage.read_text().splitlines():
            where, size, kind = line.split("\t")
            if int(size) >= LIMIT or kind == "dynamic":
                bad.append(f"{where}: a frame of {size} bytes ({kind}, {form})")
    return fail(sorted(bad))


sys.exit(main(sys.argv[1]))
