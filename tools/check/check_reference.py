#!/usr/bin/python3
# SPDX-License-Identifier: BSD-2-Clause
"""What is built is what docs/reference.md tells, and what some test names: no driver, export, option or command is forgotten."""
import pathlib
import re
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent))
from reference import reference  # noqa: E402

build = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else "build")
text = reference(build / "host/strongroom")
bad = []
if pathlib.Path("docs/reference.md").read_text() != text:
    bad.append("docs/reference.md is not what the tables say: make reference")

tests = "".join(p.read_text(errors="replace") for p in pathlib.Path("tests").rglob("*") if p.suffix in (".py", ".c"))
options, commands = text.split("## QMP commands")
names = re.findall(r"^--([a-z-]+)", options, re.M) + re.findall(r"^  (?:driver|type|backend)=(\S+)", options, re.M)
names += re.findall(r"^([a-z_-]+)  ", commands, re.M)
bad += [f"{name}: no test names it" for name in names if name not in tests]
print("\n".join(bad))
sys.exit(bool(bad))
