#!/usr/bin/python3
# SPDX-License-Identifier: BSD-2-Clause
"""make disk: a disk that UEFI boots. mkdisk.py DISK EFI/BOOT/BOOTX64.EFI=PROGRAM EFI/BOOT/strongroom.conf=CONF ...

    0        protective MBR, GPT
    1 MiB    EFI system partition, FAT16, 6 MiB: the given files
    7 MiB    nothing
    8 MiB    end; the GPT once more before it

What follows 8 MiB on a bigger disk is free. The same files give the same bytes: no time, no chance.
"""
import os
import struct
import subprocess
import sys
import uuid
import zlib

SECTOR = 512
DISK, START, LENGTH = (8 << 20) // SECTOR, (1 << 20) // SECTOR, (6 << 20) // SECTOR
ENTRIES, ENTRY = 128, 128
TABLE = ENTRIES * ENTRY // SECTOR
ESP = uuid.UUID('c12a7328-f81f-11d2-ba4b-00a0c93ec93b')


def own(name):
    """A GUID that is always the same for one thing of ours."""
    return uuid.uuid5(uuid.NAMESPACE_URL, 'strongroom:' + name).bytes_le


def mbr():
    entry = struct.pack('<B3sB3sII', 0, b'\0\2\0', 0xee, b'\xff\xff\xff', 1, DISK - 1)
    return bytes(446) + entry + bytes(48) + b'\x55\xaa'


def table():
    entry = struct.pack('<16s16sQQQ72s', ESP.bytes_le, own('esp'), START, START + LENGTH - 1, 0,
                        'strongroom'.encode('utf-16-le'))
    return entry.ljust(ENTRIES * ENTRY, b'\0')


def header(here, there, entries_at):
    def pack(own_sum):
        return struct.pack('<8sIIIIQQQQ16sQIII', b'EFI PART', 0x10000, 92, own_sum, 0, here, there, 2 + TABLE,
                           DISK - 2 - TABLE, own('disk'), entries_at, ENTRIES, ENTRY, zlib.crc32(table()))
    return pack(zlib.crc32(pack(0))).ljust(SECTOR, b'\0')


def partition(path):
    end = DISK - 1
    with open(path, 'wb') as f:
        f.truncate(DISK * SECTOR)
        f.write(mbr() + header(1, end, 2) + table())
        f.seek((end - TABLE) * SECTOR)
        f.write(table() + header(end, 1, end - TABLE))


def mtools(path, tool, *words):
    env = {**os.environ, 'SOURCE_DATE_EPOCH': '1577836800', 'TZ': 'UTC', 'MTOOLSRC': os.devnull}
    subprocess.run([tool, '-i', f'{path}@@{START * SECTOR}', *words], check=True, env=env)


def fill(path, files):
    mtools(path, 'mformat', '-T', str(LENGTH), '-h', '16', '-s', '63', '-H', str(START), '-c', '1', '-N', '53524f4d', '::')
    made = set()
    for name, source in files:
        parts = name.split('/')
        for folder in ('/'.join(parts[:n]) for n in range(1, len(parts))):
            if folder not in made:
                mtools(path, 'mmd', '::' + folder)
            made.add(folder)
        mtools(path, 'mcopy', source, '::' + name)


def main(path, *files):
    draft = path + '.new'
    partition(draft)
    fill(draft, [f.split('=', 1) for f in files])
    os.rename(draft, path)


main(*sys.argv[1:])
