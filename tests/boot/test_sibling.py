# SPDX-License-Identifier: BSD-2-Clause
"""Siblings: guests with a stock Debian kernel, whose disks we are, and the lives of everybody in it."""
import re
import time

import lib
import pytest
from lib import VM, run
from sibling import Bridge, Sibling

DISK = '--blockdev driver=virtio-blk,node-name=d0,serial=d0 '
QCOW2 = DISK + '--blockdev driver=qcow2,node-name=q0,file=d0,discard=unmap '


def export(node, sibling, more=',writable=on'):
    return f'--export type=vhost-user-blk,id=e-{sibling},node-name={node},sibling={sibling}{more} '


def raw(tmp, size='64M'):
    run('truncate', '-s', size, f'{tmp}/raw')
    return [f'{tmp}/raw']


def qcow2(tmp, size='64M', room='80M'):
    run('qemu-img', 'create', '-q', '-f', 'qcow2', f'{tmp}/q', size)
    run('truncate', '-s', room, f'{tmp}/q')
    return [f'{tmp}/q']


def boot_sector(text):
    """For SeaBIOS: writes the text to the serial line, a byte at a time, and stops."""
    code = b'\xfa\x31\xc0\x8e\xd8\xbe\x14\x7c\xba\xf8\x03\xac\x84\xc0\x74\x03\xee\xeb\xf8\xf4'
    assert len(code) == 0x14
    return (code + text + b'\0').ljust(510, b'\0') + b'\x55\xaa'


@pytest.mark.parametrize('queues', [1, 2])
def test_a_disk_like_any_other(tmp, queues):
    disk = raw(tmp)
    with Bridge('a') as b, VM(DISK + export('d0', 'a', f',num-queues={queues},writable=on'), disk, extra=b.of_storage_vm()) as vm:
        with Sibling(b, 'a', smp=queues, queues=queues) as s:
            assert s.do('size', 'vda') == 'size 67108864 block 512 ro 0'
            assert s.do('cache', 'vda') == 'write back'
            s.do('verify', 'vda', 3, 32)
            s.do('trim', 'vda')
            s.do('load', 'vda', 4)
            time.sleep(1)
            s.do('stop')
            assert s.do('cache', 'vda', 'through') == 'write through'
            s.do('verify', 'vda', 4, 8)
            s.do('run', '/sbin/mke2fs', '-q', '-t', 'ext4', '/dev/vda')
            s.do('mount', 'vda', '/mnt')
            s.do('files', '/mnt', 200)
            s.do('umount', '/mnt')
            s.do('run', '/sbin/e2fsck', '-fn', '/dev/vda')
            s.off()
        vm.quit()
    run('/sbin/e2fsck', '-fn', disk[0])


def test_the_storage_vm_dies_under_load(tmp):
    """The sibling sees a pause: no error, and every completed write is there. Allocating writes to qcow2."""
    disk, pauses = qcow2(tmp), []
    with Bridge('a') as b:
        words = QCOW2 + export('q0', 'a', ',num-queues=2,writable=on')
        vm = VM(words, disk, extra=b.of_storage_vm())
        with Sibling(b, 'a', smp=2, queues=2) as s:
            s.do('write', 'vda', 9, 4096)
            for i in range(3):
                s.do('load', 'vda', 4)
                time.sleep(.5)
                if i == 1:  # or is switched off, and asked for nothing more
                    vm.quit()
                vm.kill()
                vm = VM(words, disk, extra=b.of_storage_vm())
                vm.wait('the sibling', lambda: 'sibling a: here still' in vm.console())
                time.sleep(.5)
                pauses.append(int(re.search(r'wrong 0 longest (\d+) ms', s.do('stop')).group(1)))
            s.do('check', 'vda', 9, 4096)
            s.off()
        vm.quit()
        vm.kill()
    print('longest request, with a death of the storage VM in it:', pauses, 'ms')
    assert min(pauses) < 5000
    assert 'No errors' in run('qemu-img', 'check', disk[0]).stdout


def test_who_comes_first_and_who_comes_again(tmp):
    disk = raw(tmp)
    with open(disk[0], 'r+b') as f:
        f.write(boot_sector(b'read by SeaBIOS'))
    with Bridge('a') as b:
        with Sibling(b, 'a', wait=False) as s:  # its QEMU waits for the bridge, which waits for us
            time.sleep(.3)
            with VM(DISK + export('d0', 'a'), disk, extra=b.of_storage_vm()) as vm:
                s.here()
                s.do('verify', 'vda', 1, 4)
                s.ask('reboot')
                s.here()
                s.do('check', 'vda', 1, 4096)
                s.do('load', 'vda', 2)
                s.kill()  # with requests on their way
                vm.wait('the end', lambda: 'sibling a: disconnected' in vm.console())
                with Sibling(b, 'a') as again:
                    again.do('check', 'vda', 1, 4096)
                    again.off()
                with open(disk[0], 'r+b') as f:
                    f.write(boot_sector(b'read by SeaBIOS'))
                with Sibling(b, 'a', wait=False, kernel_given=False) as bios:
                    bios.wait('the boot sector', lambda: 'read by SeaBIOS' in bios.console())
                vm.quit()


def test_two_siblings_share_an_image(tmp):
    """Each has an overlay on one image that nobody writes; and an export that may not be written is read-only."""
    run('truncate', '-s', '32M', f'{tmp}/raw')
    with open(f'{tmp}/raw', 'r+b') as f:
        f.write(b'\x5a' * 4096)
    run('qemu-img', 'convert', '-O', 'qcow2', f'{tmp}/raw', f'{tmp}/base')
    run('truncate', '-s', '40M', f'{tmp}/base')
    for n in 'ab':
        run('qemu-img', 'create', '-q', '-f', 'qcow2', f'{tmp}/{n}', '32M')
        run('truncate', '-s', '40M', f'{tmp}/{n}')
    words = ''.join(f'--blockdev driver=virtio-blk,node-name=d{i},serial=d{i} ' for i in range(3))
    words += '--blockdev driver=qcow2,node-name=base,file=d0,read-only=on '
    for i, n in enumerate('ab'):
        words += f'--blockdev driver=qcow2,node-name={n},file=d{i + 1},backing=base ' + export(n, n)
    words += export('base', 'c', '')
    with Bridge('a', 'b', 'c') as b, VM(words, [f'{tmp}/{n}' for n in ('base', 'a', 'b')], mem=96, extra=b.of_storage_vm()) as vm:
        with Sibling(b, 'a', wait=False) as s, Sibling(b, 'b', wait=False) as t:
            s.here()
            t.here()
            for i, x in enumerate((s, t)):
                x.do('write', 'vda', i + 1, 2048)
                x.do('load', 'vda', 2)
            time.sleep(1)
            for i, x in enumerate((s, t)):
                x.do('stop')
                x.do('check', 'vda', i + 1, 2048)
                x.off()
        with Sibling(b, 'c') as r:
            assert r.do('size', 'vda') == 'size 33554432 block 512 ro 1'
            assert r.ask('write', 'vda', 1, 64).startswith('bad')
            r.off()
        vm.quit()
    for n in 'ab':
        assert 'No errors' in run('qemu-img', 'check', f'{tmp}/{n}').stdout


def test_no_bridge_no_device(tmp):
    """Exports of siblings that nobody knows, or whose memory we do not see: said, and everything else works."""
    disk = raw(tmp)
    with Bridge('a') as b:
        relay_only = b.of_storage_vm()[:4]
        with VM(DISK + lib.SERVER + export('d0', 'a') + '--export type=nbd,id=n,node-name=d0,name=n', disk, extra=relay_only) as vm:
            vm.wait('the line', lambda: 'sibling a: there is no device that shows its 128 MiB of memory' in vm.console())
            assert bytes(vm.connect('n').pread(512, 0)) == bytes(512)
            vm.quit()
