# SPDX-License-Identifier: BSD-2-Clause
"""Bad bytes on each socket of the bridge: who sends them loses its connection, and everybody else goes on."""
import os
import random
import socket
import struct
import time

import pytest

from bridge_peers import (BACKEND, DISCONNECTED, END, EXPORT, GET_FEATURES, GET_VRING_BASE, HELLO, ITSELF, MAGIC, SET_BACKEND_REQ_FD,
                          SET_CONFIG, SET_FEATURES, SET_MEM_TABLE, SET_VRING_ADDR, SET_VRING_CALL, SET_VRING_ENABLE, SET_VRING_KICK,
                          SET_VRING_NUM, UVA, VHOST, Bridge, FrontEnd, StorageVM, closed, connect, send, until)

REGION = struct.pack('<QQQQ', 0, 4096, UVA, 0)
U64 = bytes(8)
# name: (request, flags, payload, descriptors); None for the length: as long as it is
BAD = {
    'request 0': (0, 1, b'', 0),
    'unknown request': (99, 1, b'', 0),
    'request of billions': (0xffffffff, 1, b'', 0),
    'hole in the numbers': (SET_VRING_CALL + 30, 1, b'', 0),
    'no version': (GET_FEATURES, 0, b'', 0),
    'version 2': (GET_FEATURES, 2, b'', 0),
    'a reply': (GET_FEATURES, 5, b'', 0),
    'unknown flag': (GET_FEATURES, 0x80000001, b'', 0),
    'too long': (GET_FEATURES, 1, b'x', 0),
    'too short': (SET_FEATURES, 1, bytes(7), 0),
    'kick of queue 64': (SET_VRING_KICK, 1, struct.pack('<Q', 64), 1),
    'kick without descriptor': (SET_VRING_KICK, 1, U64, 0),
    'call without descriptor': (SET_VRING_CALL, 1, U64, 0),
    'kick with two': (SET_VRING_KICK, 1, U64, 2),
    'size of queue 64': (SET_VRING_NUM, 1, struct.pack('<II', 64, 1), 0),
    'size of queue 2^32-1': (SET_VRING_NUM, 1, struct.pack('<II', 0xffffffff, 1), 0),
    'addresses of queue 64': (SET_VRING_ADDR, 1, struct.pack('<IIQQQQ', 64, 0, 0, 0, 0, 0), 0),
    'base of queue 255': (GET_VRING_BASE, 1, struct.pack('<II', 255, 0), 0),
    'enable queue 1000': (SET_VRING_ENABLE, 1, struct.pack('<II', 1000, 1), 0),
    'table of 9': (SET_MEM_TABLE, 1, struct.pack('<II', 9, 0) + REGION * 8, 8),
    'table of 2^32-1': (SET_MEM_TABLE, 1, struct.pack('<II', 0xffffffff, 0) + REGION, 1),
    'table cut short': (SET_MEM_TABLE, 1, struct.pack('<II', 2, 0) + REGION, 2),
    'table with too few files': (SET_MEM_TABLE, 1, struct.pack('<II', 2, 0) + REGION * 2, 1),
    'table with too many files': (SET_MEM_TABLE, 1, struct.pack('<II', 1, 0) + REGION, 2),
    'table without files': (SET_MEM_TABLE, 1, struct.pack('<II', 1, 0) + REGION, 0),
    'configuration of another size': (SET_CONFIG, 1, struct.pack('<III', 0, 8, 0), 0),
    'configuration of 2^32-1': (SET_CONFIG, 1, struct.pack('<III', 0, 0xffffffff, 0) + bytes(4), 0),
    'no socket': (SET_BACKEND_REQ_FD, 1, b'', 0),
    'two sockets': (SET_BACKEND_REQ_FD, 1, b'', 2),
}


@pytest.fixture
def served(tmp):
    """A bridge, its storage VM, and sibling b at work."""
    with Bridge(tmp, ('a', 'b'), '1M', '--timeout', '1000') as b, StorageVM(b) as vm:
        g = FrontEnd(b, 'b').connect()
        g.realize()
        g.start()
        g.io()
        worker = b.worker()
        yield b, vm, g
        g.io(5)
        vm.check()
        assert b.worker() == worker, 'the worker died:\n' + b.log()


def test_bad_messages(served):
    b, vm, g = served
    files = [os.eventfd(0) for _ in range(100)]
    for name, (request, flags, payload, fds) in BAD.items():
        f = FrontEnd(b, 'a').connect()
        if len(name) % 2:  # some after a good beginning
            f.realize()
            f.start()
        send(f.sock, struct.pack('<III', request, flags, len(payload)) + payload, files[:fds])
        assert closed(f.sock), name
        f.close()
        g.io()
    assert 'sibling a: sent an' in b.log() or 'sibling a: sent a' in b.log()
    assert b.log().count('sibling a: sent') < len(BAD)  # not a line for each
    assert not vm.heard(END)


def test_bad_lengths(served):
    b, vm, g = served
    for n in (13, 4096, 1 << 20, 0xffffffff):
        f = FrontEnd(b, 'a').connect()
        send(f.sock, struct.pack('<III', SET_FEATURES, 1, n) + bytes(min(n, 100)))
        assert closed(f.sock), n
        f.close()
    g.io()


def test_descriptors_that_are_none(served):
    """Only eventfds go on: the storage VM would read from them."""
    b, vm, g = served
    r, w = os.pipe()
    s, _ = socket.socketpair()
    m = os.memfd_create('m')
    for fd in (r, w, s.fileno(), m, os.open('/dev/null', os.O_RDWR), os.open('/', os.O_RDONLY)):
        for request in (SET_VRING_KICK, SET_VRING_CALL):
            f = FrontEnd(b, 'a').connect()
            send(f.sock, struct.pack('<III', request, 1, 8) + U64, [fd])
            assert closed(f.sock)
            f.close()
    g.io()


def test_messages_in_pieces(served):
    b, vm, g = served
    f = FrontEnd(b, 'a').connect()
    f.realize()
    f.start()
    call = os.eventfd(0, os.EFD_NONBLOCK)
    message = struct.pack('<III', SET_VRING_CALL, 1, 8) + U64
    send(f.sock, message[:5], [call])
    for i in range(5, len(message)):
        time.sleep(.002)
        g.io()
        send(f.sock, message[i:i + 1])
    vm.wait_heard('the call', VHOST, 0, SET_VRING_CALL, count=2)
    f.submit()
    os.close(f.call[0])
    f.call[0] = call
    f.interrupted()


def test_half_a_message_costs_nothing(served):
    b, vm, g = served
    f = FrontEnd(b, 'a').connect()
    send(f.sock, struct.pack('<III', SET_FEATURES, 1, 8) + b'1234')
    stat = f'/proc/{b.worker()}/stat'
    before = sum(map(int, open(stat).read().split()[13:15]))
    time.sleep(.3)
    assert sum(map(int, open(stat).read().split()[13:15])) - before < 10  # ticks of 10 ms: it sleeps
    f.close()


def test_a_call_that_is_full(tmp):
    """A sibling that fills its eventfd, and makes it blocking, stops nobody but itself."""
    with Bridge(tmp, ('a', 'b'), '1M', '--direct', '0') as b, StorageVM(b) as vm:
        f, g = FrontEnd(b, 'a').connect(), FrontEnd(b, 'b').connect()
        for x in (f, g):
            x.realize()
            x.start()
            x.io()
        os.set_blocking(f.call[0], True)
        os.eventfd_write(f.call[0], 2**64 - 2)
        f.submit()
        start = time.time()
        until('the connection to close', lambda: b.log().count('a call that cannot be written') == 1)
        g.io(3)
        assert time.time() - start < 5
        vm.check()


def test_flood(served):
    """A sibling that only talks: the other one is served meanwhile."""
    b, vm, g = served
    f = FrontEnd(b, 'a').connect()
    f.sock.setblocking(False)
    message = struct.pack('<III', SET_VRING_NUM, 1, 8) + struct.pack('<II', 0, 8)
    end = time.time() + 1.5
    slowest = 0
    while time.time() < end:
        try:
            for _ in range(100):
                f.sock.send(message)
        except BlockingIOError:
            pass
        start = time.time()
        g.ask(SET_MEM_TABLE, struct.pack('<IIQQQQ', 1, 0, 0, g.size, UVA, 0), [g.file], 9)
        g.io()
        slowest = max(slowest, time.time() - start)
    assert slowest < 1
    f.close()


def test_random_bytes(served):
    b, vm, g = served
    rnd = random.Random(4)
    for i in range(150):
        f = FrontEnd(b, 'a').connect()
        f.sock.settimeout(5)
        try:
            for _ in range(rnd.randrange(1, 6)):
                request = rnd.choice([*range(1, 26), rnd.randrange(1 << 32)])
                payload = rnd.randbytes(rnd.choice([0, 0, 8, 8, 12, 40, rnd.randrange(300)]))
                data = struct.pack('<III', request, rnd.choice([1, 1, 1, 9, rnd.randrange(1 << 32)]), len(payload)) + payload
                send(f.sock, rnd.randbytes(rnd.randrange(1, 60)) if i % 5 == 0 else data)
        except OSError:
            pass
        f.close()
        if i % 15 == 0:
            g.io()
            connect(f'{b.dir}/a.iv').close()  # in and out


FRAME = '<IHHIHH'
NONSENSE = {
    'no magic': bytes(16),
    'an unknown kind': struct.pack(FRAME, MAGIC, 77, 0, 0, 0, 0),
    'a sibling too many': struct.pack(FRAME, MAGIC, EXPORT, 2, 8, 0, 0) + bytes(8),
    'a payload too long': struct.pack(FRAME, MAGIC, VHOST, 0, 1025, 0, 0),
    'handles': struct.pack(FRAME, MAGIC, VHOST, 0, 0, 1, 0),
    'half an export': struct.pack(FRAME, MAGIC, EXPORT, 0, 4, 0, 0) + bytes(4),
    'no message': struct.pack(FRAME, MAGIC, VHOST, 0, 3, 0, 0) + bytes(3),
    'what only the bridge says': struct.pack(FRAME, MAGIC, DISCONNECTED, 0, 0, 0, 0),
    'a half hello': struct.pack(FRAME, MAGIC, HELLO, ITSELF, 4, 0, 0) + bytes(4),
    'a back-end message of another kind': struct.pack(FRAME, MAGIC, BACKEND, 0, 12, 0, 0) + struct.pack('<III', 3, 1, 0),
}


@pytest.mark.parametrize('name', NONSENSE)
def test_relay_nonsense(served, name):
    """The session ends, and begins again with the next HELLO; siblings stay."""
    b, vm, g = served
    vm.relay.sendall(NONSENSE[name] + b'SRb' + b'SRbr' * 5)
    vm.wait_heard('END', END)
    g.submit(2)
    vm.hello()
    until('the two', lambda: g.indexes() == (3, 3) or (vm.check() and False))
    g.interrupted()


def test_relay_wrong_answer(served):
    """An answer of the wrong size ends the session; one to an old question is dropped."""
    b, vm, g = served
    for tag in (0, 1, 77, 65535):
        vm.frame(VHOST, 1, struct.pack('<IIIQ', GET_FEATURES, 5, 8, 7), tag)
    g.ask(SET_MEM_TABLE, struct.pack('<IIQQQQ', 1, 0, 0, g.size, UVA, 0), [g.file], 9)
    assert not vm.heard(END)
    vm.answer = lambda *a: b'123' if a[1] == GET_FEATURES else StorageVM.answer(vm, *a)
    g.tell(GET_FEATURES)
    vm.wait_heard('END', END)
    del vm.answer
    vm.hello()
    g.answer(GET_FEATURES)
    g.io()


def test_relay_version(tmp):
    with Bridge(tmp) as b, StorageVM(b, hello=False) as vm:
        vm.relay.sendall(b'boot noise \0\1\2SRbr' + bytes(40))
        vm.hello(2)
        vm.wait_heard('END', END)
        assert 'version 2 of the relay' in b.log()
        vm.hello()
        FrontEnd(b, 'a').connect().realize()
