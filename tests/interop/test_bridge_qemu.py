# SPDX-License-Identifier: BSD-2-Clause
"""The bridge between two stock QEMUs: the firmware as storage VM, and a PC whose SeaBIOS reads its disk from it.

The sibling's boot sector reads one sector after the other, for ever, compares each with the number that it should have, and
prints a character for each on the serial port: '.', or '!' and stops. (SeaBIOS polls; interrupts are for tests/boot.)
"""
import os
import re
import signal
import subprocess
import time

import pytest

import lib
from bridge_peers import Bridge, until

SECTORS = 32768
BOOT_SECTOR = '''
    .code16
start:
    xor %ax, %ax
    mov %ax, %ds
    mov %ax, %es
    mov %ax, %ss
    mov $0x7c00, %sp
    mov %dl, drive
    mov $'B', %al
    call put
again:
    mov $0x42, %ah
    mov drive, %dl
    mov $packet, %si
    int $0x13
    mov $'!', %al
    jc stop
    mov lba, %eax
    cmp %eax, 0x8000
    mov $'?', %al
    jne stop
    mov $'.', %al
    call put
    mov lba, %eax
    add $7, %eax
    and $0x7fff, %eax
    jnz 1f
    inc %eax
1:  mov %eax, lba
    jmp again
stop:
    call put
    cli
    hlt
put:
    mov $0x3f8, %dx
    out %al, %dx
    ret
drive: .byte 0
    .balign 4
packet: .byte 16, 0
    .word 1, 0x8000, 0
lba: .long 1, 0
    .org 510
    .word 0xaa55
'''


def disk(path):
    """Sector n begins with n; sector 0 boots."""
    run = subprocess.run(['as', '--32', '-o', f'{path}.o', '-'], input=BOOT_SECTOR, text=True, capture_output=True)
    assert run.returncode == 0, run.stderr
    lib.run('ld', '-m', 'elf_i386', '-Ttext', '0x7c00', '--oformat', 'binary', '-e', 'start', '-o', f'{path}.boot', f'{path}.o')
    boot = open(f'{path}.boot', 'rb').read()
    assert len(boot) == 512
    with open(path, 'wb') as f:
        f.write(boot + b''.join(n.to_bytes(4, 'little') + bytes(508) for n in range(1, SECTORS)))


def storage_vm(tmp, siblings, vectors=16):
    """The command; the console goes on, over restarts."""
    append = ' '.join(f'--blockdev driver=virtio-blk,node-name={n},serial={n} '
                      f'--export type=vhost-user-blk,id=e{n},node-name={n},sibling={n}' for n in siblings)
    words = ['qemu-system-x86_64', '-accel', 'tcg', '-M', 'q35', '-cpu', 'max', '-m', '64', '-nodefaults', '-no-user-config',
             '-display', 'none', '-no-reboot', '-chardev', f'file,id=con,path={tmp}/console,append=on', '-serial', 'chardev:con',
             '-kernel', lib.IMAGE['x86_64'], '-append', append, '-device', 'isa-debug-exit,iobase=0xf4,iosize=4',
             '-device', 'virtio-serial-pci', '-chardev', f'socket,id=br,path={tmp}/relay',
             '-device', 'virtserialport,chardev=br,name=org.strongroom.bridge', '-pidfile', f'{tmp}/pid']
    for n in siblings:
        words += ['-chardev', f'socket,id=iv{n},path={tmp}/{n}.iv',
                  '-device', f'ivshmem-doorbell,chardev=iv{n},vectors={vectors}',
                  '-blockdev', f'driver=file,filename={tmp}/disk,node-name=f{n},read-only=on',
                  '-device', f'virtio-blk-pci,drive=f{n},serial={n}']
    return words


class Sibling:
    def __init__(self, tmp, name, memory='64M'):
        self.tmp, self.name = tmp, name
        a = ['qemu-system-x86_64', '-accel', 'tcg', '-M', 'q35,memory-backend=m', '-m', memory, '-nodefaults', '-no-user-config',
             '-display', 'none', '-object', f'memory-backend-file,id=m,size={memory},mem-path={tmp}/{name}.ram,share=on',
             '-chardev', f'socket,id=c,path={tmp}/{name}.vhost,reconnect=1', '-device', 'vhost-user-blk-pci,chardev=c,bootindex=0',
             '-serial', f'file:{tmp}/{name}.serial', '-chardev', f'socket,id=q,path={tmp}/{name}.qmp,server=on,wait=off',
             '-mon', 'chardev=q,mode=control']
        self.proc = subprocess.Popen(a, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=open(f'{tmp}/{name}.err', 'w'))

    def serial(self):
        p = f'{self.tmp}/{self.name}.serial'
        return open(p, errors='replace').read() if os.path.exists(p) else ''

    def reads(self):
        text = self.serial()
        assert '!' not in text and '?' not in text, f'{self.name}: {text[:100]}'
        assert self.proc.poll() is None, open(f'{self.tmp}/{self.name}.err').read()
        return text.count('.')

    def goes_on(self, n=20):
        start = self.reads()
        until(f'{n} more reads of {self.name}', lambda: self.reads() >= start + n)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.proc.kill()
        self.proc.wait()


@pytest.fixture
def tmp_shown(tmp):
    yield tmp
    for p in ('console', 'a.serial', 'a.err', 'bridge.err'):
        if os.path.exists(f'{tmp}/{p}'):
            print(f'{p}:', open(f'{tmp}/{p}', errors='replace').read()[-1500:])


def test_firmware_and_seabios(tmp_shown):
    """Sibling first; the storage VM dies, twice; the sibling is reset, and killed; another runs beside it."""
    tmp = tmp_shown
    disk(f'{tmp}/disk')
    with Sibling(tmp, 'a') as a:
        with Bridge(tmp, ('a', 'b'), '64M', '--direct', '1', '--storage-vm', '--', *storage_vm(tmp, 'ab')) as bridge, \
                Sibling(tmp, 'b') as b:
            a.goes_on()
            b.goes_on()
            for _ in range(3):
                time.sleep(.2)
                pid = int(open(f'{tmp}/pid').read())
                os.kill(pid, signal.SIGKILL)
                until('the old one to be gone', lambda: not os.path.exists(f'/proc/{pid}'))
                before = a.reads()
                until('the next read', lambda: a.reads() > before)
                a.goes_on()
                b.goes_on()
            q = lib.Qmp(f'{tmp}/a.qmp')
            for i in range(3):
                boots = a.serial().count('B')
                q('system_reset')
                until('the sibling to boot', lambda: a.serial().count('B') > boots)
                a.goes_on()
            a.__exit__()
            b.goes_on()
            with Sibling(tmp, 'a') as again:
                again.goes_on()
                b.goes_on()
            bridge.kill_worker()
            b.goes_on()
            assert not re.search('does not answer|waited too long', bridge.log()), bridge.log()
