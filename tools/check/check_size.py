#!/usr/bin/python3
# SPDX-License-Identifier: BSD-2-Clause
"""The shipped firmware stays at or below 800 kB."""
import pathlib
import sys

from sources import fail

LIMIT = 800_000
images = [i for name in ("elf", "img") for i in pathlib.Path(sys.argv[1]).glob("*/strongroom." + name)]
sys.exit(fail([f"{image}: {image.stat().st_size} bytes, more than {LIMIT}"
               for image in images if image.stat().st_size > LIMIT]))
