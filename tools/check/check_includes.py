#!/usr/bin/python3
# SPDX-License-Identifier: BSD-2-Clause
"""Who may include whom (docs: the rooms). Rooms point downwards; each library has one place."""
import re
import sys

from sources import fail, sources

EVERYTHING = None
ROOMS = {  # room -> rooms it may include, besides itself
    "boot": {"kernel"},
    "kernel": set(),
    "blk": {"kernel"},
    "formats": {"blk", "kernel"},
    "virtio": {"blk", "kernel"},
    "ahci": {"blk", "kernel"},
    "net": {"blk", "kernel"},
    "control": {"blk", "kernel"},
    "board": EVERYTHING,
    "tests": EVERYTHING,
    "bench": EVERYTHING,
}
# Single headers that a room may include although their room is out of reach.
EXCEPTIONS = [
    (r"kernel/", r"boot/(\w+/)?arch\.h"),
    (r"tools/bridge/", r"virtio/device/\w+_spec\.h"),
]
LIBRARIES = [  # header -> files that may include it
    (r"(lwip|netif)/", r"net/lwip"),
    (r"(mbedtls|psa)/", r"net/tls|blk/crypto"),
    (r"(zlib|zconf|zstd|zstd_errors)\.h", r"formats/compress"),
    (r"json-c/", r"control/json\.c"),
    (r"(libfdt|fdt)\.h", r"board/"),
    (r"liburing", r"board/host/"),
]
INCLUDE = re.compile(r'\s*#\s*include\s*[<"]([^>"]+)[>"]')


def own_header_allowed(path, header):
    room, other = path.split("/")[0], header.split("/")[0]
    if other not in ROOMS and other != "tools":
        return True  # of the C library
    allowed = ROOMS.get(room, set())
    return (allowed is EVERYTHING or other == room or other in allowed
            or path.startswith("tools/") and header.startswith(path.rsplit("/", 1)[0] + "/")
            or any(re.match(p, path) and re.fullmatch(h, header) for p, h in EXCEPTIONS))


def main():
    bad = []
    for path, lines in sources():
        for number, line in enumerate(lines, 1):
            match = INCLUDE.match(line)
            if not match:
                continue
            header = match[1]
            if not own_header_allowed(path, header):
                bad.append(f"{path}:{number}: {header} is out of reach of this room")
            for pattern, place in LIBRARIES:
                if re.match(pattern, header) and not re.match(place + "|tests/", path):
                    bad.append(f"{path}:{number}: {header} belongs to {place}")
    return fail(bad)


sys.exit(main())
