# SPDX-License-Identifier: BSD-2-Clause
"""Disks and a CD-ROM on q35's own AHCI controller, beside virtio disks."""
import random
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
