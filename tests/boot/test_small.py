# SPDX-License-Identifier: BSD-2-Clause
"""Little memory, no network, bad neighbours: nothing is dropped, nobody starves."""
import random
import socket
import threading
import time

import pytest

import lib
from lib import VM, nbd, run

WORDS = ('--blockdev driver=virtio-blk,node-name=disk0,serial=d0 --blockdev driver=virtio-blk,node-name=disk1,serial=d1 '
         '--blockdev driver=qcow2,node-name=vol,file=disk1,read-only=on ' + lib.SERVER +
         '--export type=nbd,id=e0,node-name=disk0,name=raw,writable=on --export type=nbd,id=e1,node-name=vol,name=vol')


def disks(tmp):
    run('truncate', '-s', '64M', f'{tmp}/raw')
    run('qemu-img', 'create', '-q', '-f', 'qcow2', '-o', 'cluster_size=2M,compression_type=zstd', f'{tmp}/z', '64M')
    run('qemu-io', '-f', 'qcow2', '-c', 'write -q -c -P 0x5a 2M 2M', f'{tmp}/z')
    run('truncate', '-s', '%512', f'{tmp}/z')
    return [f'{tmp}/raw', f'{tmp}/z']


def hammer(hs, rounds, seed):
    """Verified 4 KiB I/O, 32 in flight on each connection; each writes its own blocks, its neighbour reads them."""
    for r in range(rounds):
        want, flight = {}, []
        for i in range(32 * len(hs)):
            data = random.Random(seed + r * 1000 + i).randbytes(4096)
            want[i << 13] = data
            flight.append((hs[i % len(hs)], hs[i % len(hs)].aio_pwrite(nbd.Buffer.from_bytearray(bytearray(data)), i << 13)))
        drain(flight)
        bufs = {at: nbd.Buffer(4096) for at in want}
        drain([(hs[(i + 1) % len(hs)], hs[(i + 1) % len(hs)].aio_pread(bufs[at], at)) for i, at in enumerate(want)])
        for at, data in want.items():
            assert bytes(bufs[at].to_bytearray()) == data, f'wrong data at {at}'


def drain(flight, patience=60):
    end = time.time() + patience
    for h, c in flight:
        while not h.aio_command_completed(c):
            assert time.time() < end, f'waited {patience} s for {len(flight)} requests'
            h.poll(1000)


@pytest.mark.parametrize('machine', ['q35', 'virt'])
def test_twelve_mebibytes(machine, tmp):
    with VM(WORDS, disks(tmp), machine=machine, mem=12) as vm:
        hs = [vm.connect('raw') for _ in range(4)]
        hammer(hs, 3, 1)
        assert len(hs[0].pread(32 << 20, 0)) == 32 << 20
        data = random.Random(7).randbytes(32 << 20)
        hs[1].pwrite(data, 16 << 20)
        assert bytes(hs[2].pread(32 << 20, 16 << 20)) == data
        assert bytes(vm.connect('vol').pread(2 << 20, 2 << 20)) == b'\x5a' * (2 << 20)
        vm.quit()


def test_a_client_that_does_not_read_starves_nobody(tmp):
    with VM(WORDS, disks(tmp), mem=16) as vm:
        idle = []
        for _ in range(4):  # ask for much, read nothing
            h = vm.connect('raw')
            idle += [h] + [h.aio_pread(nbd.Buffer(1 << 20), i << 20) for i in range(16)]
        hammer([vm.connect('raw') for _ in range(2)], 3, 5)
        vm.quit()


def test_bad_bytes_close_one_connection(tmp):
    with VM(WORDS, disks(tmp)) as vm:
        good = vm.connect('raw')
        stop = threading.Event()

        def vandal():
            rnd = random.Random(3)
            while not stop.is_set():
                with socket.create_connection(('127.0.0.1', vm.port), 5) as s:
                    s.settimeout(.2)
                    try:
                        s.sendall(rnd.randbytes(rnd.randrange(1, 4000)))
                        s.recv(100)
                    except OSError:
                        pass
        t = threading.Thread(target=vandal)
        t.start()
        try:
            hammer([good], 20, 9)
        finally:
            stop.set()
            t.join()
        vm.quit()


def test_no_dhcp_server_delays_nothing_else(tmp):
    nowhere = ['-netdev', f'socket,id=n,listen=127.0.0.1:{lib.free_port()}', '-device', 'virtio-net-pci,netdev=n']
    with VM(WORDS, disks(tmp), net=None, extra=nowhere, wait=False) as vm:
        vm.wait('the ready line without an address', lambda: 'ready: 2 exports' in vm.console(), 20)
        vm.quit()


def test_no_card_at_all(tmp):
    with VM('--blockdev driver=virtio-blk,node-name=disk0,serial=d0', disks(tmp), net=None) as vm:
        names = [n['node-name'] for n in vm.qmp()('query-named-block-nodes')['return']]
        assert names == ['disk0']
        vm.quit()


def test_a_hundred_that_do_not_read(tmp):
    with VM(WORDS, disks(tmp), mem=64) as vm:
        idle, buf = [], nbd.Buffer(1 << 20)
        for _ in range(95):
            h = vm.connect('raw')
            idle += [h] + [h.aio_pread(buf, i << 20) for i in range(4)]
        hammer([vm.connect('raw') for _ in range(2)], 2, 11)
        vm.quit()
