# SPDX-License-Identifier: BSD-2-Clause
"""The main job on every machine: boot, find disks, serve a qcow2 and a raw volume, power off cleanly."""
import os
import random
import time

import pytest

import lib
from lib import VM, run

VOL = ('--blockdev driver=virtio-blk,node-name=disk0,serial=d0 --blockdev driver=qcow2,node-name=vol0,file=disk0 '
       '--blockdev driver=virtio-blk,node-name=disk1,serial=d1 ' + lib.SERVER +
       '--export type=nbd,id=exp0,node-name=vol0,name=vol0 '
       '--export type=nbd,id=exp1,node-name=disk1,name=raw1,writable=on')


@pytest.fixture
def disks(tmp):
    raw = lib.pattern_image(f'{tmp}/src.raw', 64 << 20)
    run('qemu-img', 'convert', '-f', 'raw', '-O', 'qcow2', raw, f'{tmp}/a.qcow2')
    run('qemu-io', '-f', 'qcow2', '-c', 'write -c -P 9 8M 64k', f'{tmp}/a.qcow2')
    run('truncate', '-s', '%512', f'{tmp}/a.qcow2')
    run('truncate', '-s', '64M', f'{tmp}/b.raw')
    return [f'{tmp}/a.qcow2', f'{tmp}/b.raw']


@pytest.mark.parametrize('machine', lib.MACHINES)
def test_serves(machine, disks):
    with VM(VOL, disks, machine=machine) as vm:
        console = vm.console()
        assert 'strongroom: ' in console.splitlines()[0], console
        assert f'serial d0 size {os.path.getsize(disks[0])} block 512 ro 0' in console
        assert 'disk 1: virtio-blk' in console and 'ready: 2 exports' in console
        run('qemu-img', 'compare', '-U', '-f', 'qcow2', '-F', 'raw', disks[0], vm.uri('vol0'))
        h = vm.connect('vol0')
        assert h.is_read_only()
        w = vm.connect('raw1')
        data = random.Random(machine).randbytes(1 << 20)
        w.pwrite(data, 5 << 20)
        w.flush()
        assert bytes(w.pread(1 << 20, 5 << 20)) == data
        assert len(w.pread(32 << 20, 0)) == 32 << 20
        time.sleep(.2)
        before = vm.cpu_seconds()
        time.sleep(.8)
        assert vm.cpu_seconds() - before < .3, 'with nothing to do it does not sleep'
        vm.quit()
        with open(disks[1], 'rb') as f:
            f.seek(5 << 20)
            assert f.read(1 << 20) == data


def test_cpu_without_extensions(disks):
    with VM(VOL, disks, cpu='qemu64') as vm:
        run('qemu-img', 'compare', '-U', '-f', 'qcow2', '-F', 'raw', disks[0], vm.uri('vol0'))


def test_no_configuration(disks):
    with VM('', disks) as vm:
        h = vm.connect('d0')
        assert h.is_read_only() and h.get_size() == os.path.getsize(disks[0])
        assert bytes(h.pread(4, 0)) == b'QFI\xfb'
        assert vm.connect('d1').is_read_only()
        assert 'warning' in vm.console()


def test_static_address(disks):
    with VM('--netdev driver=virtio-net,ip=10.0.2.15/24,gateway=10.0.2.2 ' + VOL, disks) as vm:
        assert vm.connect('vol0').get_size() == 64 << 20


def test_configuration_from_a_file(disks, tmp):
    with open(f'{tmp}/config', 'w') as f:
        f.write("""[{"execute": "blockdev-add", "arguments": {"driver": "virtio-blk", "node-name": "n", "serial": "d1"}},
 {"execute": "nbd-server-start", "arguments": {"addr": {"type": "inet", "data": {"host": "0.0.0.0", "port": "10809"}}}},
 {"execute": "block-export-add", "arguments": {"type": "nbd", "id": "e", "node-name": "n", "name": "far"}}]""")
    for how in (['-fw_cfg', f'name=opt/strongroom/config,file={tmp}/config'], ['-initrd', f'{tmp}/config']):
        with VM('console=ttyS0', disks, extra=how) as vm:
            assert vm.connect('far').get_size() == 64 << 20
            assert vm.connect('far').is_read_only()


def test_power_button(disks):
    with VM(VOL, disks) as vm:
        vm.qemu()('system_powerdown')
        assert vm.status() == 0 and 'off: clean' in vm.console()


def test_finds_disks_by_address_and_index(disks):
    words = ('--blockdev driver=virtio-blk,node-name=a,index=0 --blockdev driver=virtio-blk,node-name=b,pci=00:04.0 ' +
             lib.SERVER + '--export type=nbd,id=a,node-name=a,name=a --export type=nbd,id=b,node-name=b,name=b')
    with VM(words, [], extra=['-blockdev', f'driver=file,node-name=x,filename={disks[0]}',
                              '-blockdev', f'driver=file,node-name=y,filename={disks[1]}',
                              '-device', 'virtio-blk-pci,drive=x,addr=3', '-device', 'virtio-blk-pci,drive=y,addr=4'],
            net='user', nic_options=',addr=8') as vm:
        assert vm.connect('a').get_size() == os.path.getsize(disks[0]) & ~511
        assert vm.connect('b').get_size() == os.path.getsize(disks[1])
