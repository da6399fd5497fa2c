# SPDX-License-Identifier: BSD-2-Clause
"""Disks and a CD-ROM on q35's own AHCI controller, beside virtio disks.

QEMU's IDE bus takes no device while the machine runs (device_add: "does not support hotplugging"), so hot plug is shown on
the model of a controller, tests/unit/test_ahci_faults.c; media can be changed here.
"""
import os
import random
import re
import time

import pytest

import lib
from lib import VM, nbd, run

SIZE = 32 << 20


def ide(port, image, kind='ide-hd', more='', **opts):
    """Arguments for a device on a port; its serial number is sPORT."""
    spec = image if '=' in image.split('/')[0] else f'driver=file,filename={image},discard=unmap'
    spec += ''.join(f',{k.replace("_", "-")}={v}' for k, v in opts.items())
    return ['-blockdev', f'{spec},node-name=s{port}', '-device',
            f'{kind},drive=s{port},bus=ide.{port},serial=s{port},id=sata{port}{more}']


def words(*ports, writable='on', more=''):
    """Configuration that serves these ports as p0, p1, ..."""
    return ''.join(f'--blockdev driver=ahci,node-name=n{p},port={p}{more} ' for p in ports) + lib.SERVER + ''.join(
        f'--export type=nbd,id=e{p},node-name=n{p},name=p{p},writable={writable} ' for p in ports)


@pytest.fixture
def files(tmp):
    for n in 'abc':
        lib.pattern_image(f'{tmp}/{n}', SIZE, seed=ord(n))
    return [f'{tmp}/{n}' for n in 'abc']


def churn(h, path, seconds=1.5, depth=32, seed=3):
    """Random verified reads and writes of 4 KiB, `depth` in flight, against a model of the disk; returns their number.
    A block has one request at a time, so the model knows what each read must give."""
    rnd = random.Random(seed)
    model = bytearray(open(path, 'rb').read())
    free = list(range(len(model) // 4096))
    rnd.shuffle(free)
    flight, count, end = [], 0, time.time() + seconds
    while flight or time.time() < end:
        while len(flight) < depth and time.time() < end:
            b = free.pop(rnd.randrange(len(free)))
            if rnd.random() < .4:
                data = rnd.randbytes(4096)
                model[b * 4096:b * 4096 + 4096] = data
                flight.append((b, None, h.aio_pwrite(nbd.Buffer.from_bytearray(bytearray(data)), b * 4096)))
            else:
                buf = nbd.Buffer(4096)
                flight.append((b, buf, h.aio_pread(buf, b * 4096)))
        h.poll(1000)
        for f in [f for f in flight if h.aio_command_completed(f[2])]:
            flight.remove(f)
            free.append(f[0])
            count += 1
            assert f[1] is None or f[1].to_bytearray() == model[f[0] * 4096:f[0] * 4096 + 4096], f'block {f[0]} is wrong'
    h.flush()
    assert open(path, 'rb').read() == model
    return count


def test_disks_and_virtio_in_one_machine(files):
    virtio = '--blockdev driver=virtio-blk,node-name=v,serial=d0 '
    export = '--export type=nbd,id=ev,node-name=v,name=v,writable=on '
    with VM(virtio + words(0, 5) + export, files[2:], extra=ide(0, files[0]) + ide(5, files[1])) as vm:
        console = vm.console()
        assert 'ahci: pci 00:1f.2: 6 ports, 2 in use, 32 slots, NCQ' in console
        assert f'ahci pci 00:1f.2 port 0 serial s0 size {SIZE} block 512 ro 0' in console
        assert f'ahci pci 00:1f.2 port 5 serial s5 size {SIZE} block 512 ro 0' in console
        for name, path in (('p0', files[0]), ('p5', files[1]), ('v', files[2])):
            assert churn(vm.connect(name), path) > 100
        vm.quit()


@pytest.mark.parametrize('how', ['serial=s1', 'port=1', 'index=0', 'pci=00:1f.2', 'pci=00:1f.2,port=1'])
def test_found_by(files, how):
    node = f'--blockdev driver=ahci,node-name=n,{how} ' + lib.SERVER
    with VM(node + '--export type=nbd,id=e,node-name=n,name=n', extra=ide(1, files[0])) as vm:
        assert bytes(vm.connect('n').pread(4096, 0)) == open(files[0], 'rb').read(4096)


def test_two_controllers(files):
    more = ['-device', 'ahci,id=second,addr=9', '-blockdev', f'driver=file,filename={files[1]},node-name=f9', '-device',
            'ide-hd,drive=f9,bus=second.3,serial=z9']
    node = '--blockdev driver=ahci,node-name=n,pci=00:09.0,port=3 ' + lib.SERVER
    with VM(node + '--export type=nbd,id=e,node-name=n,name=n,writable=on', extra=ide(3, files[0]) + more) as vm:
        assert 'disk 0: ahci pci 00:09.0 port 3 serial z9' in vm.console()
        assert churn(vm.connect('n'), files[1], .5) > 50
        vm.quit()


def test_qcow2_on_a_sata_disk(files, tmp):
    run('qemu-img', 'convert', '-f', 'raw', '-O', 'qcow2', files[0], f'{tmp}/q')
    os.truncate(f'{tmp}/q', 48 << 20)
    w = '--blockdev driver=ahci,node-name=d,port=0 --blockdev driver=qcow2,node-name=n,file=d ' + lib.SERVER
    with VM(w + '--export type=nbd,id=e,node-name=n,name=n,writable=on', extra=ide(0, f'{tmp}/q')) as vm:
        run('qemu-img', 'compare', '-U', '-f', 'raw', '-F', 'raw', files[0], vm.uri('n'))
        vm.connect('n').pwrite(b'7' * 65536, 1 << 20)
        vm.quit()
    out = run('qemu-io', '-f', 'qcow2', '-c', 'read -P 55 1M 64k', f'{tmp}/q').stdout
    assert 'Pattern verification failed' not in out, out


def boot_ms(files, machine):
    """From the first line to the ready line, by the guest's clock."""
    w = '--blockdev driver=virtio-blk,node-name=v,serial=d0 ' + lib.SERVER + '--export type=nbd,id=e,node-name=v,name=v'
    with VM(w, files[:1], machine=machine) as vm:
        times = [float(t) for t in re.findall(r'^\[([0-9.]+)\]', vm.console(), re.M)]
        assert ('ahci: ' in vm.console()) == (machine == 'q35')
        return (times[-1] - times[0]) * 1e3


def test_six_empty_ports_cost_nothing(files):
    empty = min(boot_ms(files, 'q35') for _ in range(5))
    without = min(boot_ms(files, 'q35,sata=off') for _ in range(5))
    assert empty - without < 10, f'{empty} ms with, {without} ms without'


@pytest.mark.parametrize('how,why', [('port=2', "No ahci disk with port 2"), ('serial=s1,index=0', 'Exactly one of'),
                                     ('serial=no', "No ahci disk with serial 'no'")])
def test_not_found(files, how, why):
    with VM(f'--blockdev driver=ahci,node-name=n,{how}', extra=ide(1, files[0]), wait=False) as vm:
        assert vm.status() == 3 and why in vm.console()


def test_odd_requests(files):
    with VM(words(0), extra=ide(0, files[0])) as vm:
        out = run('qemu-io', '-f', 'raw', '-c', 'write -P 7 4096 1M', '-c', 'read -P 7 4096 1M', '-c', 'write -P 8 777 3333',
                  '-c', 'read -P 8 777 3333', '-c', 'read -P 7 4112 8', '-c', 'write -z 2M 1M', '-c', 'read -P 0 2M 1M',
                  '-c', 'write -f -P 9 5M 64k', '-c', 'read -P 9 5M 64k', '-c', 'flush', vm.uri('p0')).stdout
        assert 'failed' not in out and 'error' not in out.lower(), out
        vm.quit()


def inject(tmp, image, *rules):
    """A -blockdev with blkdebug over an image. Rules: (iotype, errno, sector, more)."""
    with open(f'{tmp}/rules', 'w') as f:
        for kind, errno, sector, more in rules:
            f.write(f'[inject-error]\nevent = "none"\niotype = "{kind}"\nerrno = "{errno}"\nsector = "{sector}"\n{more}\n')
    return f'driver=blkdebug,config={tmp}/rules,image.driver=file,image.filename={image}'


REPORT = ',werror=report,rerror=report'


def test_errors_reach_their_request_only(files, tmp):
    bad = inject(tmp, files[0], ('read', 5, 2048, ''), ('write', 28, 4096, ''))
    with VM(words(0, 1), extra=ide(0, bad, more=REPORT) + ide(1, files[1])) as vm:
        h, other, image = vm.connect('p0'), vm.connect('p1'), open(files[0], 'rb').read()
        for _ in range(3):
            with pytest.raises(nbd.Error) as e:
                h.pread(4096, 2048 * 512)
            assert e.value.errno == 'EIO'
            with pytest.raises(nbd.Error) as e:
                h.pwrite(bytes(4096), 4096 * 512)
            assert e.value.errno == 'EIO'
            assert bytes(h.pread(4096, 0)) == image[:4096]
        # 32 in flight, one of them bad: it fails, and no other
        bufs = [nbd.Buffer(4096) for _ in range(32)]
        flight = [h.aio_pread(b, (2048 - 64 + 8 * i) * 512) for i, b in enumerate(bufs)]
        failed = []
        while any(flight):
            h.poll(1000)
            for i, c in enumerate(flight):
                if not c:
                    continue
                try:
                    if h.aio_command_completed(c):
                        flight[i] = None
                        assert bufs[i].to_bytearray() == image[(2048 - 64 + 8 * i) * 512:][:4096], f'request {i} is wrong'
                except nbd.Error as e:
                    flight[i] = None
                    failed.append((i, e.errno))
        assert failed == [(8, 'EIO')]
        assert bytes(other.pread(4096, 2048 * 512)) == open(files[1], 'rb').read()[2048 * 512:][:4096]
        vm.quit()


def test_an_error_once_in_a_while(files, tmp):
    """QEMU's disk keeps no log of NCQ errors: what was in flight is done again, one at a time, and succeeds."""
    bad = inject(tmp, files[0], *[('read', 5, s, 'once = "on"') for s in range(0, 65536, 2048)])
    with VM(words(0), extra=ide(0, bad, more=REPORT)) as vm:
        h, image = vm.connect('p0'), open(files[0], 'rb').read()
        for at in range(0, SIZE, 1 << 20):
            assert bytes(h.pread(1 << 20, at)) == image[at:at + (1 << 20)]
        assert 'port 0: an error that has no log: reset' in vm.console()
        assert churn(h, files[0]) > 100
        vm.quit()


def test_flush_and_fua_reach_the_disk(files):
    def flushes(q):
        return next(b for b in q('query-blockstats')['return'] if b.get('qdev', '').find('sata0') >= 0 or
                    b.get('node-name') == 's0')['stats']['flush_operations']
    with VM(words(0), extra=ide(0, files[0], more=',discard_granularity=512')) as vm:
        q, h = vm.qemu(), vm.connect('p0')
        before = flushes(q)
        h.pwrite(b'1' * 4096, 0)
        assert flushes(q) == before
        h.flush()
        assert flushes(q) == before + 1
        h.pwrite(b'2' * 4096, 4096, nbd.CMD_FLAG_FUA)
        assert flushes(q) == before + 2
        vm.quit()


def test_trim_reaches_the_disk(files):
    with VM(words(0, more=',discard=unmap'), extra=ide(0, files[0], more=',discard_granularity=512')) as vm:
        h = vm.connect('p0')
        h.pwrite(b'x' * (4 << 20), 8 << 20)
        h.flush()
        full = os.stat(files[0]).st_blocks
        h.trim(4 << 20, 8 << 20)
        h.flush()
        assert os.stat(files[0]).st_blocks <= full - (4 << 20) // 512
        assert bytes(h.pread(4 << 20, 8 << 20)) == bytes(4 << 20)
        vm.quit()


def test_cd_rom(files, tmp):
    with VM(words(2, writable='off'), extra=ide(2, files[0], 'ide-cd', **{'read-only': 'on'})) as vm:
        h, image = vm.connect('p2'), open(files[0], 'rb').read()
        assert h.is_read_only() and h.get_size() == SIZE
        assert bytes(h.pread(1 << 20, 2048)) == image[2048:2048 + (1 << 20)]
        assert bytes(h.pread(1000, 777)) == image[777:1777]
        q = vm.qemu()
        assert 'return' in q('blockdev-open-tray', id='sata2', force=True)
        vm.wait('the open tray', lambda: 'tray open' in vm.console(), 20)
        with pytest.raises(nbd.Error):
            vm.connect('p2').pread(2048, 0)
        for word in ({'driver': 'file', 'filename': files[1], 'node-name': 'other', 'read-only': True},):
            assert 'return' in q('blockdev-add', **word)
        assert 'return' in q('blockdev-remove-medium', id='sata2')
        assert 'return' in q('blockdev-insert-medium', id='sata2', node_name='other')
        assert 'return' in q('blockdev-close-tray', id='sata2')
        vm.wait('the new medium', lambda: vm.connect('p2').get_size() == SIZE, 20)
        assert bytes(vm.connect('p2').pread(4096, 8192)) == open(files[1], 'rb').read()[8192:12288]
        vm.quit()


def test_cd_rom_without_a_medium(files):
    empty = ['-device', 'ide-cd,bus=ide.3,id=cd,serial=s3']
    with VM(words(3, writable='off'), extra=empty) as vm:
        assert vm.connect('p3').get_size() == 0 and 'no medium' in vm.console()
        vm.quit()
