# SPDX-License-Identifier: BSD-2-Clause
"""The bridge and its peers, played in Python: a sibling's QEMU (FrontEnd) and a storage VM with its devices (StorageVM).

The storage VM here serves nothing: it moves every available ring entry to the used ring and rings the bell. Everything that
waits has a time-out.
"""
import array
import contextlib
import mmap
import os
import selectors
import signal
import socket
import struct
import subprocess
import threading
import time

import lib

BRIDGE = os.environ.get('STRONGROOM_BRIDGE', os.path.join(lib.BUILD, 'bridge'))
PATIENCE = lib.PATIENCE

GET_FEATURES, SET_FEATURES, SET_OWNER, RESET_OWNER, SET_MEM_TABLE = 1, 2, 3, 4, 5
SET_VRING_NUM, SET_VRING_ADDR, SET_VRING_BASE, GET_VRING_BASE = 8, 9, 10, 11
SET_VRING_KICK, SET_VRING_CALL, SET_VRING_ERR = 12, 13, 14
GET_PROTOCOL_FEATURES, SET_PROTOCOL_FEATURES, GET_QUEUE_NUM, SET_VRING_ENABLE = 15, 16, 17, 18
SET_BACKEND_REQ_FD, GET_CONFIG, SET_CONFIG = 21, 24, 25
HELLO, SIBLING, EXPORT, CONNECTED, DISCONNECTED, REPLAYED, VHOST, BACKEND, END = range(1, 10)
MAGIC, ITSELF, ELSEWHERE = 0x72625253, 0xffff, 2**64 - 1
FEATURES = 1 << 32 | 1 << 30 | 1 << 9
PROTOCOL = 1 << 0 | 1 << 3 | 1 << 5 | 1 << 9
CONFIG = bytes(range(60))
UVA = 0x7f0000000000  # of the sibling's memory, in its QEMU
QUEUE_SIZE = 128
MIB = 1 << 20


def until(what, test, timeout=PATIENCE):
    end = time.time() + timeout
    while True:
        r = test()
        if r:
            return r
        assert time.time() < end, f'waited {timeout} s for {what}'
        time.sleep(.002)


def receive(sock, n):
    """n bytes and the descriptors that came with them."""
    data, fds = b'', []
    while len(data) < n:
        d, anc, _, _ = sock.recvmsg(n - len(data), socket.CMSG_SPACE(64))
        for level, kind, c in anc:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                a = array.array('i')
                a.frombytes(c[:len(c) - len(c) % 4])
                fds += a
        if not d:
            raise EOFError
        data += d
    return data, fds


def send(sock, data, fds=()):
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array('i', fds))] if fds else []
    assert sock.sendmsg([data], rights) == len(data)


def connect(path, timeout=PATIENCE):
    """As QEMU with reconnect=: again and again until somebody listens."""
    def once():
        s = socket.socket(socket.AF_UNIX)
        s.settimeout(timeout)
        try:
            s.connect(path)
            return s
        except (ConnectionRefusedError, FileNotFoundError, BlockingIOError):
            s.close()
    return until(f'a listener at {path}', once, timeout)


def closed(sock):
    """Closed by the other side, with or without bytes of ours unread."""
    try:
        return sock.recv(100) == b''
    except ConnectionError:
        return True


def vring_offset(q):
    """Where the tests put the rings of a queue: descriptors, avail, used; offsets into the memory."""
    base = 0x10000 + q * 0x4000
    return base, base + 0x1000, base + 0x2000


class Bridge:
    """build/bridge. siblings: names; their paths are in dir."""

    def __init__(self, dir, siblings=('a', 'b'), size='1M', *words, wait=True, stderr=None):
        self.dir, self.siblings = dir, siblings
        a = [BRIDGE, '--relay', f'{dir}/relay']
        for n in siblings:
            a += ['--sibling', f'name={n},vhost={dir}/{n}.vhost,ivshmem={dir}/{n}.iv,memory={dir}/{n}.ram,size={size}']
        self.err = open(f'{dir}/bridge.err', 'w+')
        self.proc = subprocess.Popen([*a, *words], stdin=subprocess.DEVNULL, stderr=stderr or self.err)
        if wait:
            until('the bridge to be ready', lambda: self.proc.poll() is not None or 'ready:' in self.log())
            assert self.proc.poll() is None, self.log()

    def log(self):
        return open(f'{self.dir}/bridge.err').read()

    def children(self):
        return [int(p) for p in open(f'/proc/{self.proc.pid}/task/{self.proc.pid}/children').read().split()]

    def worker(self):
        return self.children()[-1]

    def kill_worker(self):
        os.kill(self.worker(), signal.SIGKILL)

    def close(self):
        if self.proc.poll() is None:
            self.proc.terminate()
            try:
                self.proc.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                self.proc.kill()
                raise AssertionError('the bridge does not end')
        return self.proc.returncode

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        self.close()
        if kind:
            print(self.log()[-3000:])


class FrontEnd:
    """A sibling's QEMU. Its rings are real ones, in its memory file."""

    def __init__(self, bridge, name, timeout=PATIENCE):
        self.bridge, self.name = bridge, name
        self.file = os.open(f'{bridge.dir}/{name}.ram', os.O_RDWR)
        self.memory = mmap.mmap(self.file, 0)
        self.size = len(self.memory)
        self.kick, self.call = {}, {}
        self.sock = None
        self.timeout = timeout

    def connect(self):
        self.sock = connect(f'{self.bridge.dir}/{self.name}.vhost', self.timeout)
        return self

    def tell(self, request, payload=b'', fds=(), flags=1):
        send(self.sock, struct.pack('<III', request, flags, len(payload)) + payload, fds)

    def answer(self, request):
        h, fds = receive(self.sock, 12)
        r, flags, size = struct.unpack('<III', h)
        assert r == request and flags == 5 and not fds, f'an answer to {r}, flags {flags}; asked {request}'
        return receive(self.sock, size)[0] if size else b''

    def ask(self, request, payload=b'', fds=(), flags=1):
        self.tell(request, payload, fds, flags)
        return self.answer(request)

    def u64(self, request):
        return struct.unpack('<Q', self.ask(request))[0]

    def realize(self, queues=1):
        """What QEMU says when the device is made."""
        self.features = self.u64(GET_FEATURES)
        self.protocol = self.u64(GET_PROTOCOL_FEATURES)
        self.tell(SET_PROTOCOL_FEATURES, struct.pack('<Q', self.protocol))
        self.queues = self.u64(GET_QUEUE_NUM)
        assert self.queues >= queues
        self.tell(SET_OWNER)
        assert self.u64(GET_FEATURES) == self.features
        for q in range(queues):
            for request in (SET_VRING_CALL, SET_VRING_ERR):
                fd = os.eventfd(0, os.EFD_NONBLOCK)
                self.tell(request, struct.pack('<Q', q), [fd])
                os.close(fd)
        c = self.ask(GET_CONFIG, struct.pack('<III', 0, 57, 0) + bytes(57))
        assert len(c) == 12 + 57
        return c[12:]

    def start(self, q=0, base=0, call=True):
        """A driver starts a queue: new eventfds, as in QEMU."""
        self.tell(SET_FEATURES, struct.pack('<Q', FEATURES))
        if call:
            self.new_call(q)
        self.tell(SET_FEATURES, struct.pack('<Q', FEATURES))
        table = struct.pack('<IIQQQQ', 1, 0, 0, self.size, UVA, 0)
        assert self.ask(SET_MEM_TABLE, table, [self.file], 9) == bytes(8)
        desc, avail, used = vring_offset(q)
        self.tell(SET_VRING_NUM, struct.pack('<II', q, QUEUE_SIZE))
        self.tell(SET_VRING_BASE, struct.pack('<II', q, base))
        self.tell(SET_VRING_ADDR, struct.pack('<IIQQQQ', q, 0, UVA + desc, UVA + used, UVA + avail, 0))
        if q in self.kick:
            os.close(self.kick[q])
        self.kick[q] = os.eventfd(0, os.EFD_NONBLOCK)
        self.tell(SET_VRING_KICK, struct.pack('<Q', q), [self.kick[q]])
        self.tell(SET_VRING_ENABLE, struct.pack('<II', q, 1))

    def new_call(self, q=0):
        if q in self.call:
            os.close(self.call[q])
        self.call[q] = os.eventfd(0, os.EFD_NONBLOCK)
        self.tell(SET_VRING_CALL, struct.pack('<Q', q), [self.call[q]])

    def stop(self, q=0):
        """Ends a queue; its base."""
        self.tell(SET_VRING_ENABLE, struct.pack('<II', q, 0))
        index, base = struct.unpack('<II', self.ask(GET_VRING_BASE, struct.pack('<II', q, 0)))
        assert index == q
        return base

    def indexes(self, q=0):
        _, avail, used = vring_offset(q)
        return (*struct.unpack_from('<H', self.memory, avail + 2), *struct.unpack_from('<H', self.memory, used + 2))

    def set_indexes(self, n, q=0):
        _, avail, used = vring_offset(q)
        struct.pack_into('<H', self.memory, avail + 2, n)
        struct.pack_into('<H', self.memory, used + 2, n)

    def submit(self, n=1, q=0):
        """Makes n more entries available, and kicks."""
        at = vring_offset(q)[1] + 2
        struct.pack_into('<H', self.memory, at, (struct.unpack_from('<H', self.memory, at)[0] + n) & 0xffff)
        os.eventfd_write(self.kick[q], 1)

    def interrupted(self, q=0, timeout=PATIENCE):
        """Waits for the call."""
        with selectors.DefaultSelector() as sel:
            sel.register(self.call[q], selectors.EVENT_READ)
            assert sel.select(timeout), f'waited {timeout} s for an interrupt of {self.name}, queue {q}'
        os.eventfd_read(self.call[q])

    def io(self, n=1, q=0):
        """n entries, there and back, with the interrupt."""
        want = (self.indexes(q)[0] + n) & 0xffff
        self.submit(n, q)
        end = time.time() + PATIENCE
        while self.indexes(q)[1] != want:
            self.interrupted(q)
            assert time.time() < end, f'waited {PATIENCE} s for used index {want}: {self.indexes(q)}'

    def close(self):
        self.sock.close()
        for fd in [*self.kick.values(), *self.call.values()]:
            os.close(fd)
        self.kick, self.call = {}, {}


class Device:
    """An ivshmem-doorbell device, in as much as QEMU has it."""

    def __init__(self, path, vectors):
        self.sock = connect(path)
        self.limit, self.vectors, self.peers = vectors, [], {}
        assert self.message() == (0, None)
        self.id, fd = self.message()
        assert fd is None
        minus, self.file = self.message()
        assert minus == -1 and self.file is not None
        self.memory = mmap.mmap(self.file, 0)
        assert len(self.memory) & (len(self.memory) - 1) == 0

    def message(self):
        data, fds = receive(self.sock, 8)
        for fd in fds:
            os.set_blocking(fd, True)  # H1: so does a socket chardev
        return struct.unpack('<q', data)[0], fds[0] if fds else None

    def take(self):
        """The next message; the vector's eventfd, if it is one."""
        n, fd = self.message()
        assert fd is not None, 'a peer was removed'
        os.set_blocking(fd, False)  # and the device back again
        if n == self.id:
            assert len(self.vectors) < self.limit, 'more vectors than the device has'
            self.vectors.append(fd)
            return fd
        assert n not in self.peers, 'a peer was used again'
        self.peers[n] = fd
        return None

    def ring(self, doorbell):
        assert doorbell & 0xffff == 0
        os.eventfd_write(self.peers[doorbell >> 16], 1)

    def close(self):
        self.sock.close()
        self.memory.close()
        for fd in [self.file, *self.vectors, *self.peers.values()]:
            os.close(fd)


class StorageVM(threading.Thread):
    """Relay and devices in a thread of its own. mute: requests that it does not answer. said: all that it was told."""

    def __init__(self, bridge, vectors=64, exports=None, mute=(), devices=True, hello=True):
        super().__init__(daemon=True)
        self.bridge, self.mute, self.vectors = bridge, set(mute), vectors
        self.said, self.names, self.ring, self.regions, self.failure = [], {}, {}, {}, None
        self.exports = bridge.siblings if exports is None else exports
        self.sel = selectors.DefaultSelector()
        self.relay = connect(f'{bridge.dir}/relay')
        self.sel.register(self.relay, selectors.EVENT_READ, self.on_frame)
        self.device = {}
        for i, name in enumerate(bridge.siblings if devices else ()):
            self.device[i] = d = Device(f'{bridge.dir}/{name}.iv', vectors)
            assert d.id == i + 1
            self.sel.register(d.sock, selectors.EVENT_READ, lambda d=d, i=i: self.on_device(d, i))
        self.stop, self.go = threading.Event(), threading.Event()
        self.wake, self.waker = socket.socketpair()
        self.sel.register(self.wake, selectors.EVENT_READ, None)
        if hello:
            self.hello()
        self.start()

    @contextlib.contextmanager
    def stopped(self):
        """Meanwhile it does nothing."""
        self.go.clear()
        self.stop.set()
        time.sleep(.1)
        yield
        self.stop.clear()
        self.go.set()

    def frame(self, kind, sibling=ITSELF, payload=b'', tag=0, handles=0):
        self.relay.sendall(struct.pack('<IHHIHH', MAGIC, kind, sibling, len(payload), handles, tag) + payload)

    def hello(self, version=1):
        self.frame(HELLO, payload=struct.pack('<IIQ', version, 0, 0))

    def export(self, sibling, on=1):
        self.frame(EXPORT, sibling, struct.pack('<HHI', on, self.vectors, 0))

    def run(self):
        try:
            while True:
                for key, _ in self.sel.select(.02):
                    if key.data is None:
                        return
                    key.data()
                if self.stop.is_set():
                    self.go.wait(PATIENCE)
        except (EOFError, ConnectionError) as e:
            self.failure = e
        except Exception as e:  # shown by check()
            self.failure = e
            raise

    def on_frame(self):
        h, _ = receive(self.relay, 16)
        magic, kind, sibling, size, n, tag = struct.unpack('<IHHIHH', h)
        assert magic == MAGIC and size <= 1024 and n <= 8
        handles = struct.unpack(f'<{n}Q', receive(self.relay, 8 * n)[0]) if n else ()
        payload = receive(self.relay, size)[0] if size else b''
        {HELLO: self.on_hello, SIBLING: self.on_sibling, VHOST: self.on_vhost, DISCONNECTED: self.on_disconnected,
         REPLAYED: self.on_replayed}.get(kind, lambda *a: None)(sibling, payload, handles, tag)
        if kind != VHOST:
            self.said.append((kind, sibling, payload))

    def on_hello(self, sibling, payload, *_):
        assert payload == struct.pack('<IIQ', 1, 0, 0) and sibling == ITSELF

    def on_sibling(self, sibling, payload, *_):
        self.names[sibling] = payload[8:].rstrip(b'\0').decode()
        if self.names[sibling] in self.exports:
            self.export(sibling)

    def on_disconnected(self, sibling, *_):
        for key in [k for k in self.ring if k[0] == sibling]:
            del self.ring[key]

    def on_replayed(self, sibling, *_):
        for key in [k for k in self.ring if k[0] == sibling]:
            self.process(*key, always=True)

    def on_vhost(self, sibling, payload, handles, tag):
        request, flags, size = struct.unpack_from('<III', payload)
        body = payload[12:]
        assert size == len(body)
        self.said.append((VHOST, sibling, request, body, handles))
        if request == SET_MEM_TABLE:
            self.regions[sibling] = [(*r, handle) for r, handle in zip(struct.iter_unpack('<QQQQ', body[8:]), handles)]
        answer = self.answer(sibling, request, body, handles)
        if answer is None and flags & 8:
            answer = bytes(8)
        if answer is not None and request not in self.mute:
            self.frame(VHOST, sibling, struct.pack('<III', request, 5, len(answer)) + answer, tag)

    def answer(self, sibling, request, body, handles):
        if request == GET_FEATURES:
            return struct.pack('<Q', FEATURES | 1 << 26)
        if request == GET_PROTOCOL_FEATURES:
            return struct.pack('<Q', PROTOCOL | 1 << 12 | 1 << 15)
        if request == GET_QUEUE_NUM:
            return struct.pack('<Q', 1000)
        if request == GET_CONFIG:
            offset, size, _ = struct.unpack_from('<III', body)
            return body[:12] + CONFIG[offset:offset + size]
        if len(body) >= 8 and request in (SET_VRING_BASE, SET_VRING_KICK, SET_VRING_CALL, GET_VRING_BASE):
            return self.on_vring(sibling, request, *struct.unpack_from('<II', body), handles)

    def on_vring(self, sibling, request, q, num, handles):
        r = self.ring.setdefault((sibling, q & 0xff), {'on': False, 'call': None, 'last': 0})
        if request == SET_VRING_BASE:
            r['last'] = num
        elif request == SET_VRING_CALL:
            r['call'] = handles[0] if handles else None
            if r['on']:
                self.process(sibling, q & 0xff, always=True)
        elif request == SET_VRING_KICK:
            r['on'], r['vector'] = True, handles[0] if handles else None
            self.process(sibling, q & 0xff)
        else:
            r['on'] = False
            return struct.pack('<II', q, r['last'])

    def on_device(self, d, sibling):
        try:
            fd = d.take()
        except (EOFError, ConnectionError):
            self.sel.unregister(d.sock)
            return
        if fd is not None:
            self.sel.register(fd, selectors.EVENT_READ, lambda: self.on_vector(sibling, fd))

    def on_vector(self, sibling, fd):
        vector = self.device[sibling].vectors.index(fd)
        try:
            os.eventfd_read(fd)
        except BlockingIOError:
            return
        for (s, q), r in list(self.ring.items()):
            if s == sibling and (vector == 0 or r.get('vector') == vector):
                self.process(s, q)

    def process(self, sibling, q, always=False):
        """Completes all that is available."""
        r, d = self.ring[sibling, q], self.device.get(sibling)
        if not r['on'] or d is None:
            return
        _, avail, used = vring_offset(q)
        now, = struct.unpack_from('<H', d.memory, avail + 2)
        if now != r['last'] or always:
            r['last'] = now
            struct.pack_into('<H', d.memory, used + 2, now)
            if r['call'] is not None:
                until('the peer that a call names', lambda: self.peer(d, sibling, r['call'] >> 16), 5)
                d.ring(r['call'])

    def peer(self, d, sibling, number):
        """The bridge waits until QEMU has read a peer; this thread has not necessarily looked at it."""
        with selectors.DefaultSelector() as s:
            s.register(d.sock, selectors.EVENT_READ)
            while number not in d.peers and s.select(0):
                self.on_device(d, sibling)
        return number in d.peers

    def heard(self, kind, sibling=None, request=None):
        return [x for x in list(self.said) if x[0] == kind and (sibling is None or x[1] == sibling)
                and (request is None or x[2] == request)]

    def wait_heard(self, what, *args, count=1, timeout=PATIENCE):
        return until(f'the storage VM to hear {what}', lambda: len(self.heard(*args)) >= count, timeout)

    def check(self):
        assert self.failure is None, repr(self.failure)

    def kill(self):
        """Gone, as by SIGKILL."""
        self.waker.send(b'x')
        self.join(PATIENCE)
        assert not self.is_alive(), 'the storage VM does not end'
        self.relay.close()
        for d in self.device.values():
            d.close()
        self.sel.close()
        self.wake.close()
        self.waker.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.kill()
