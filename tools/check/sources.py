# SPDX-License-Identifier: BSD-2-Clause
"""Our C sources and headers, for the check scripts."""
import subprocess


def tracked(*patterns):
    """Files git knows or would add (so a new file is checked before it is committed)."""
    out = subprocess.run(["git", "ls-files", "--cached", "--others", "--exclude-standard", "--",
                          *patterns], check=True, text=True, capture_output=True).stdout
    return sorted(set(out.splitlines()))


def sources(patterns=("*.c", "*.h", "*.S")):
    """(path, lines) of each; a file that was deleted but not yet committed is skipped."""
    for path in tracked(*patterns):
        try:
            with open(path, encoding="utf-8") as file:
                yield path, file.read().split("\n")
        except FileNotFoundError:
            pass


def fail(messages):
    """Print what is wrong; the exit status."""
    for message in messages:
        print(message)
    return 1 if messages else 0
