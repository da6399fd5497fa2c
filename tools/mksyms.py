#!/usr/bin/python3
# SPDX-License-Identifier: BSD-2-Clause
"""The symbol table that a panic prints names from.

  mksyms.py              an empty table, for the first pass of a link
  mksyms.py PROGRAM      the functions of PROGRAM, as assembler source for the second pass
  mksyms.py --check A B  fail unless every function has the same address in both programs

The table, in section .ksyms, is sorted by address:
  const uint64_t ksyms_base;                 address of the first function
  const struct ksym { uint32_t offset;       from that address
                      uint32_t name; }       offset in ksyms_names
      ksyms[];
  const uint32_t ksyms_count;
  const char ksyms_names[];
"""
import subprocess
import sys


def functions(program):
    """(address, name) of each function, sorted; one name per address."""
    out = subprocess.run(["nm", "-n", "--defined-only", program], check=True, text=True,
                         capture_output=True).stdout
    code, weak = {}, {}
    for line in out.splitlines():
        address, kind, name = line.split()[:3]
        if name[0] == "$":  # Arm's marks of what is code and what is data
            continue
        if kind in "tT" and int(address, 16):
            code.setdefault(int(address, 16), name)
        elif kind in "wW":  # of no type: a function if it lies among functions
            weak[int(address, 16)] = name
    for address, name in weak.items():
        if code and min(code) < address < max(code):
            code.setdefault(address, name)
    return sorted(code.items())


def print_table(table):
    print('        .section .ksyms, "a", @progbits')
    base = table[0][0] if table else 0
    print("        .globl ksyms_base, ksyms, ksyms_count, ksyms_names")
    print(f"        .balign 8\nksyms_base:\n        .quad {base:#x}\nksyms:")
    offset = 0
    for address, name in table:
        print(f"        .long {address - base:#x}, {offset}")
        offset += len(name) + 1
    print(f"ksyms_count:\n        .long {len(table)}\nksyms_names:")
    for _, name in table:
        print(f'        .asciz "{name}"')
    print('        .section .note.GNU-stack, "", @progbits')


def main(args):
    if args[:1] == ["--check"]:
        first, second = functions(args[1]), functions(args[2])
        if first != second:
            moved = sorted(set(first) ^ set(second))[0]
            sys.exit(f"mksyms: {moved[1]} moved between the passes: .ksyms must lie behind all code")
        return
    print_table(functions(args[0]) if args else [])


if __name__ == "__main__":
    main(sys.argv[1:])
