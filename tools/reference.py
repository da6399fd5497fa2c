#!/usr/bin/python3
# SPDX-License-Identifier: BSD-2-Clause
"""reference.py PROGRAM: docs/reference.md, from the typed tables that `PROGRAM --help` prints."""
import subprocess
import sys


def reference(program):
    out = subprocess.run([program, "--help"], stdout=subprocess.PIPE, text=True, check=True).stdout
    options, rest = out[out.index("\n--"):].split("\nImage creation\n")
    creation, commands = rest.split("\nQMP commands\n")
    return ("# Options and commands\n\nWritten by `make reference` from the tables that also parse them. "
            "In brackets: optional; in parentheses: the default.\nThe host form has all of them; the firmware "
            "has those that its board can serve.\n\n## Options\n\n```\n" + options.strip("\n") +
            "\n```\n\n## Image creation\n\nFor `strongroom create -f FORMAT -o NAME=VALUE,...`, which knows "
            "them by qemu-img's names: with underscores, `version` as `compat`.\n\n```\n" + creation.strip("\n") +
            "\n```\n\n## QMP commands\n\n```\n" + commands.strip("\n") + "\n```\n")


if __name__ == "__main__":
    sys.stdout.write(reference(sys.argv[1]))
