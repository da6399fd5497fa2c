# SPDX-License-Identifier: BSD-2-Clause
"""The firmware boots by itself from a disk: UEFI, a GPT, and strongroom.conf beside the program.

The UEFI firmware takes several seconds until it starts us, so there are few boots, and each shows several things.
"""
import os
import shutil
import subprocess
import time

import pytest

import lib
from lib import run
from test_ahci import churn, ide

SIZE = 16 << 20
EXPORT = '--export type=nbd,id=e{0},node-name={0},name={0},writable=on\n'


PROGRAM = {'x86_64': 'BOOTX64.EFI', 'aarch64': 'BOOTAA64.EFI'}
EDK2 = {'x86_64': ('OVMF/OVMF_CODE_4M.fd', 'OVMF/OVMF_VARS_4M.fd'), 'aarch64': ('AAVMF/AAVMF_CODE.fd', 'AAVMF/AAVMF_VARS.fd')}
UBOOT = {'x86_64': 'qemu-x86_64/u-boot.rom', 'aarch64': 'qemu_arm64/u-boot.bin'}


def firmware(kind, arch):
    if kind == 'u-boot':
        return ['-bios', f'/usr/lib/u-boot/{UBOOT[arch]}']
    code, variables = (f'/usr/share/{f}' for f in EDK2[arch])
    return ['-drive', f'if=pflash,unit=0,format=raw,readonly=on,file={code}',
            '-drive', f'if=pflash,unit=1,format=raw,snapshot=on,file={variables}']


class Booted(lib.VM):
    """A VM that starts from its disks: `boot` (images, tried in this order), then data disks as in lib.VM. sata: the former are SATA
    disks, so that the firmware has used the controller before we do."""

    def __init__(self, boot, disks=(), machine='q35', extra=(), wait=True, sata=False, kind='edk2'):
        self.dir = d = lib.scratch()
        self.port = lib.free_port()
        arch = lib.arch_of(machine)
        status = ['-device', 'isa-debug-exit,iobase=0xf4,iosize=4'] if arch == 'x86_64' else \
            ['-semihosting-config', 'enable=on,target=native']
        a = [f'qemu-system-{arch}', '-accel', 'tcg', '-M', machine, '-cpu', 'max', '-smp', '1', '-m', '128', '-nodefaults',
             '-no-user-config', '-display', 'none', '-no-reboot', '-serial', f'file:{d}/console',
             *firmware(kind, arch),
             '-chardev', f'socket,id=q,path={d}/qmp,server=on,wait=off', '-device', 'virtio-serial-pci',
             '-device', 'virtserialport,chardev=q,name=org.strongroom.qmp', '-device', 'virtio-rng-pci', *status,
             '-chardev', f'socket,id=hq,path={d}/qemu,server=on,wait=off', '-mon', 'chardev=hq,mode=control',
             '-netdev', f'user,id=n,hostfwd=tcp:127.0.0.1:{self.port}-:10809', '-device', 'virtio-net-pci,netdev=n,romfile=']
        for i, f in enumerate(boot):
            a += ['-blockdev', f'driver=file,filename={f},node-name=b{i}', '-device',
                  (f'ide-hd,bus=ide.{i}' if sata else 'virtio-blk-pci') + f',drive=b{i},serial=boot{i},bootindex={i}']
        for i, f in enumerate(disks):
            a += ['-blockdev', f'driver=file,filename={f},node-name=f{i},discard=unmap', '-device',
                  f'virtio-blk-pci,drive=f{i},serial=d{i}']
        self.words = a + list(extra)
        self.start = time.time()
        self.proc = subprocess.Popen(self.words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                     stderr=open(f'{d}/err', 'w'))
        if wait:
            self.ready()


def disk(path, conf=None, size=None, arch='x86_64'):
    """What `make disk` makes, with another strongroom.conf (None: without one)."""
    files = [f'EFI/BOOT/{PROGRAM[arch]}={lib.BUILD}/{arch}/strongroom.efi']
    if conf is not None:
        with open(path + '.conf', 'w') as f:
            f.write(conf)
        files.append(f'EFI/BOOT/strongroom.conf={path}.conf')
    run(os.path.join(lib.TOP, 'tools/mkdisk.py'), path, *files)
    if size:
        os.truncate(path, size)
    return path


def press_button(vm):
    """It ends well, and by switching itself off: with -no-reboot a reset has status 0, too."""
    q = vm.qemu()
    q('system_powerdown')
    assert vm.status() == 0 and 'off: clean' in vm.console()
    said = q.file.read()
    assert '"reason": "guest-shutdown"' in said, said


@pytest.mark.parametrize('machine,extra', [('q35', []), ('virt,gic-version=3', ['-device', 'ahci,id=ide'])])
def test_serves_the_other_disks_and_the_rest_of_its_own(machine, extra, tmp):
    conf = ('# Two disks behind two controllers,\r\n'
            '--blockdev driver=virtio-blk,node-name=v,serial=d0\n\n'
            '\t# --blockdev driver=nosuch,node-name=x\n'
            '  --blockdev\n driver=ahci,node-name=a,port=1\n'
            '# and what follows the partitions of the disk that we came from\n'
            '--blockdev driver=virtio-blk,node-name=own,serial=boot0\n'
            '--blockdev driver=raw,node-name=rest,file=own,offset=8M\n'
            + lib.SERVER + '\n' + ''.join(EXPORT.format(n) for n in ('v', 'a', 'rest')).rstrip())
    boot = disk(f'{tmp}/boot', conf, 24 << 20, lib.arch_of(machine))
    for n in 'va':
        lib.pattern_image(f'{tmp}/{n}', SIZE, seed=ord(n))
    before = open(boot, 'rb').read(8 << 20)
    with Booted([boot], [f'{tmp}/v'], machine, extra + ide(1, f'{tmp}/a')) as vm:
        assert 'ready: 3 exports' in vm.console()
        assert churn(vm.connect('v'), f'{tmp}/v', 1) > 50
        assert churn(vm.connect('a'), f'{tmp}/a', 1) > 50
        rest = vm.connect('rest')
        assert rest.get_size() == SIZE
        rest.pwrite(b'7' * 65536, 0)
        rest.flush()
        if machine == 'q35':
            vm.quit()
        else:  # where the button is ACPI's generic event device
            press_button(vm)
    after = open(boot, 'rb').read()
    assert after[:8 << 20] == before and after[8 << 20:(8 << 20) + 65536] == b'7' * 65536


@pytest.mark.parametrize('kind,machine,made', [('edk2', 'q35', True), ('edk2', 'virt,acpi=off', False), ('u-boot', 'q35', False),
                                               ('u-boot', 'virt,virtualization=on', True)])
def test_default(kind, machine, made, tmp):
    """Comments only (the disk as made), or no strongroom.conf: all disks are served, with a warning; the power button works.
    U-Boot is a UEFI of its own kind: without SSE, and with its stack where our image goes."""
    arch = lib.arch_of(machine)
    if made:
        shutil.copy(f'{lib.BUILD}/{arch}/strongroom-disk.img', f'{tmp}/boot')
    else:
        disk(f'{tmp}/boot', arch=arch)
    lib.pattern_image(f'{tmp}/v', SIZE)
    with Booted([f'{tmp}/boot'], [f'{tmp}/v'], machine, sata=arch == 'x86_64', kind=kind) as vm:
        assert 'warning: no configuration: ' in vm.console() and 'ready: 2 exports' in vm.console()
        run('qemu-img', 'compare', '-U', '-f', 'raw', '-F', 'raw', f'{tmp}/v', vm.uri('d0'))
        run('qemu-img', 'compare', '-U', '-f', 'raw', '-F', 'raw', f'{tmp}/boot', vm.uri('boot0'))
        if kind == 'u-boot':  # which leaves the PC's power management off; virt has its button for UEFI in ACPI only
            return vm.quit()
        press_button(vm)


def test_bad_configuration(tmp):
    """What cannot be used ends the start with a sentence, and the firmware goes on with the next disk. The last one is
    read, and wrong: the contract's line and status."""
    long = disk(f'{tmp}/long', '--blockdev driver=virtio-blk,node-name=' + 'x' * 5000)
    binary = disk(f'{tmp}/binary', '--blockdev \0\1\2')
    wrong = disk(f'{tmp}/wrong', '# fine\n--frobnicate on\n')
    with Booted([long, binary, wrong], wait=False) as vm:
        assert vm.status() == 3
        assert 'strongroom: strongroom.conf has more than 4095 bytes of options' in vm.console()
        assert 'strongroom: strongroom.conf is not a text' in vm.console()
        assert 'error: --frobnicate' in vm.console() and 'ready' not in vm.console()


def test_bad_configuration_on_arm(tmp):
    wrong = disk(f'{tmp}/wrong', '--frobnicate on', arch='aarch64')
    with Booted([wrong], machine='virt', kind='u-boot', wait=False) as vm:
        assert vm.status() == 3 and 'error: --frobnicate' in vm.console()


def test_disk_is_the_same_every_time(tmp):
    disk(f'{tmp}/1', '--x')
    time.sleep(2.1)  # as long as FAT's clock takes to tick
    disk(f'{tmp}/2', '--x')
    assert open(f'{tmp}/1', 'rb').read() == open(f'{tmp}/2', 'rb').read()


@pytest.mark.parametrize('arch', sorted(lib.IMAGE))
def test_make_disk(arch, tmp):
    with open(os.path.join(lib.TOP, 'tools/strongroom.conf')) as f:
        disk(f'{tmp}/d', f.read(), arch=arch)
    assert open(f'{tmp}/d', 'rb').read() == open(f'{lib.BUILD}/{arch}/strongroom-disk.img', 'rb').read()
