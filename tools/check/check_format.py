#!/usr/bin/python3
# SPDX-License-Identifier: BSD-2-Clause
"""clang-format has nothing to change in our C sources (`make format` repairs)."""
import os
import subprocess
import sys

from sources import tracked

files = [f for f in tracked("*.c", "*.h") if os.path.exists(f)]
sys.exit(subprocess.run(["clang-format", "--dry-run", "-Werror", *files]).returncode if files else 0)
