# SPDX-License-Identifier: BSD-2-Clause
"""Crowds of clients that ask for much and read nothing: whatever they use up, others go on."""
import socket
import struct
import time

import pytest

import lib
from lib import VM, run

WORDS = ('--blockdev driver=virtio-blk,node-name=disk0,serial=d0 ' + lib.SERVER +
         '--export type=nbd,id=e,node-name=disk0,name=v,writable=on')


def silent(port, size, requests):
    """A connection with simple replies and a small window that asks, and never reads an answer."""
    s = socket.socket()
    s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    s.settimeout(20)
    s.connect(('127.0.0.1', port))

    def hear(n):
        b = b''
        while len(b) < n:
            piece = s.recv(n - len(b))
            assert piece, 'closed in the handshake'
            b += piece
    hear(18)
    s.sendall(struct.pack('>I', 3) + b'IHAVEOPT' + struct.pack('>III', 7, 7, 1) + b'v' + struct.pack('>H', 0))
    hear(20 + 12 + 20)
    s.settimeout(2)
    try:
        s.sendall(b''.join(struct.pack('>IHHQQI', 0x25609513, 0, 0, i, (i % 8000) * 4096, size) for i in range(requests)))
    except socket.timeout:
        pass
    return s


# mem, connections, size of a read, reads: each row once used up something else (lwIP's pbufs, twice; stacks)
@pytest.mark.parametrize('mem,crowd,size,reads', [(256, 4, 1025, 500), (192, 15, 4096, 130), (64, 90, 32 << 20, 4)])
def test_others_go_on(mem, crowd, size, reads, tmp):
    run('truncate', '-s', '64M', f'{tmp}/d')
    with VM(WORDS, [f'{tmp}/d'], mem=mem) as vm:
        old = vm.connect('v')
        socks = [silent(vm.port, size, reads) for _ in range(crowd)]
        time.sleep(3)  # until time-outs and probes run, too
        for h in (old, vm.connect('v')):
            for i in range(20):
                h.pwrite(bytes([i]) * 4096, i * 4096)
                assert bytes(h.pread(4096, i * 4096)) == bytes([i]) * 4096
        for s in socks:
            s.close()
