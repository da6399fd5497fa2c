# SPDX-License-Identifier: BSD-2-Clause
"""What a disk may hold after a power cut: a recorder of every write, and the states that can be made of its record.

QEMU's `blklogwrites` filter sits on the storage VM's disks and writes a log in dm-log-writes' format: for each request one sector of header (sector,
sectors, flags, data length: four le64) and then the data; a superblock at 0. Its log goes to an NBD export of this process, so nothing
of it is lost when QEMU is killed, each entry arrives in one request, and the recorder knows at any time how long the log is. A request is
logged when the file below has done it and before the guest is told: what the guest saw completed is in the log. A flush is logged when it is issued, since
the file below is opened with cache.no-flush=on: what precedes it in the log was complete when the flush began.

A state is made for a length of the log: everything before a disk's last flush is there; of what came later, each sector has any of its
versions. Modes choose those where mistakes in order show: all lost, all there, one lost, one there, data lost but metadata there, ...
(QEMU 7.2 puts the zeroes of a write-zeroes request at a wrong place in its log; nothing here depends on the place.)
"""
import os
import socket
import struct
import threading

import verify

HEADER = struct.Struct('<QQQQ')
MAGIC = 0x6a736677736872
FLUSH, FUA, DISCARD = 1, 2, 4
SECTOR = 512


class Entry:
    __slots__ = ('disk', 'sector', 'sectors', 'flags', 'data')


class Recorder:
    """An NBD server (the oldest handshake: no dialogue) whose export N is the log of disk N."""

    def __init__(self, folder, disks=1):
        self.entries, self.lock, self.threads, self.listeners = [], threading.Lock(), [], []
        self.paths = [f'{folder}/log{i}' for i in range(disks)]
        for i, p in enumerate(self.paths):
            if os.path.exists(p):
                os.unlink(p)
            s = socket.socket(socket.AF_UNIX)
            s.bind(p)
            s.listen(4)
            self.listeners.append(s)
            t = threading.Thread(target=self._accept, args=(s, i), daemon=True)
            t.start()
            self.threads.append(t)

    def blockdev(self, disk, filename, discard=True):
        """The disk's node, for -blockdev."""
        return (f'driver=blklogwrites,discard={"unmap" if discard else "ignore"},file.driver=file,file.filename={filename},file.discard=unmap,file.cache.no-flush=on,'
                f'log.driver=nbd,log.server.type=unix,log.server.path={self.paths[disk]}')

    def length(self):
        return len(self.entries)

    def close(self):
        """Once QEMU is dead: reads what it had sent."""
        for s in self.listeners:
            s.shutdown(socket.SHUT_RDWR)
            s.close()
        for t in self.threads:
            t.join(20)
            assert not t.is_alive(), 'waited 20 s for the end of the log'

    def _accept(self, listener, disk):
        while True:
            try:
                s, _ = listener.accept()
            except OSError:
                return
            with s:
                s.sendall(b'NBDMAGIC' + struct.pack('>QQI', 0x00420281861253, 1 << 44, 1 | 4 | 64) + bytes(124))
                try:
                    self._serve(s, disk)
                except (EOFError, ConnectionError):
                    pass  # the kill; a request that did not arrive whole was not answered

    def _serve(self, s, disk):
        def take(n):
            got = s.recv(n, socket.MSG_WAITALL)
            if len(got) < n:
                raise EOFError
            return got
        while True:
            _, _, kind, cookie, at, n = struct.unpack('>IHH8sQI', take(28))
            if kind == 2:
                raise EOFError
            if kind == 1:
                self._record(disk, at, take(n))
            # 3 flush, 6 zeroes: those of a write-zeroes request, known from its header
            s.sendall(struct.pack('>II8s', 0x67446698, 0, cookie) + (bytes(n) if kind == 0 else b''))

    def _record(self, disk, at, data):
        sector, sectors, flags, _ = HEADER.unpack_from(data)
        if at == 0:
            assert sector == MAGIC
            return
        e = Entry()
        e.disk, e.sector, e.sectors, e.flags = disk, sector, sectors, flags
        e.data = data[SECTOR:] if len(data) > SECTOR else None
        assert flags & FLUSH or flags & DISCARD or e.data is None or len(e.data) == sectors * SECTOR
        with self.lock:
            self.entries.append(e)


class State:
    """The disks as a bytearray each, with everything applied up to some length of the log."""

    def __init__(self, images):
        self.disks = [bytearray(i) for i in images]

    def copy(self):
        return State(self.disks)

    def apply(self, e, keep=None):
        """keep: which sectors of it; None: all."""
        if not e.sectors:
            return
        d, at = self.disks[e.disk], e.sector * SECTOR
        if e.flags & DISCARD or e.data is None:
            data = memoryview(bytes(e.sectors * SECTOR))
        else:
            data = memoryview(e.data)
        if keep is None:
            d[at:at + len(data)] = data
            return
        for i in range(e.sectors):
            if keep(i):
                d[at + i * SECTOR:at + (i + 1) * SECTOR] = data[i * SECTOR:(i + 1) * SECTOR]


def is_data(e):
    """Does this write carry the client's payload? Then its first sector names itself."""
    return e.data is not None and e.data[:16] * 32 == e.data[:SECTOR] and any(e.data[:8])


MODES = ('all', 'none', 'half', 'one lost', 'one there', 'data lost', 'data only', 'header lost', 'header there', 'torn', 'last torn', 'discards lost')


def choose(mode, later, rnd):
    """For each entry that is not safe: True, False, or a function of the sector."""
    n = len(later)
    odd = rnd.randrange(n) if n else 0
    share = {'all': 1, 'none': 0, 'half': .5}.get(mode)
    for i, e in enumerate(later):
        if share is not None:
            yield rnd.random() < share
        elif mode in ('one lost', 'one there'):
            yield (i == odd) == (mode == 'one there')
        elif mode in ('data lost', 'data only'):
            yield is_data(e) == (mode == 'data only')
        elif mode in ('header lost', 'header there'):
            yield (e.sector == 0) == (mode == 'header there')
        elif mode == 'torn':
            whole = rnd.random()
            yield whole < .3 or (whole < .9 and (lambda _: rnd.random() < .5))
        elif mode == 'last torn':
            cut = rnd.randrange(e.sectors) if e.sectors else 0
            yield i < n - 1 or (lambda s: s < cut)
        else:
            yield not e.flags & DISCARD


def lengths(entries, rnd, cuts):
    """Where to cut a log: at its end, and in turn just before a flush, when most is at stake; after a write of the header; anywhere."""
    flushes = [i for i, e in enumerate(entries) if e.flags & FLUSH]
    headers = [i + 1 for i, e in enumerate(entries) if e.sectors and not e.sector]
    anywhere = range(len(entries) + 1)
    kinds = (flushes, headers, anywhere)
    return sorted({len(entries)} | {rnd.choice(kinds[i % 3] or anywhere) for i in range(cuts - 1)})


def states(images, entries, rnd, cuts, modes=MODES, flushes=True, each=len(MODES)):
    """Yields (length of the log, mode, State) for `cuts` lengths, for each of the modes, or for that many of them by chance. flushes=False: as if the
    disk had ignored them all."""
    safe, later = State(images), []
    done = 0
    for length in lengths(entries, rnd, cuts):
        for e in entries[done:length]:
            if e.flags & FLUSH and flushes:
                for x in later:
                    if x.disk == e.disk:
                        safe.apply(x)
                later = [x for x in later if x.disk != e.disk]
            elif e.sectors:
                later.append(e)
        done = length
        for mode in rnd.sample(modes, min(each, len(modes))):
            s = safe.copy()
            for e, keep in zip(later, choose(mode, later, rnd)):
                if keep:
                    s.apply(e, None if keep is True else keep)
            yield length, mode, s


class Judge:
    """Writes states out and asks qemu-img and the model about them. image: a verify.Image whose files were the disks."""

    def __init__(self, image, model, folder, lax=False):
        self.image, self.model, self.lax = image, model, lax
        self.path, self.data = f'{folder}/state', f'{folder}/state.data' if image.data else None
        self.judged = 0

    def put(self, state):
        for path, disk in zip((self.path, self.data), state.disks):
            with open(path, 'wb') as f:
                f.write(disk)

    def faults(self, length, state):
        """What is wrong with the disks as they are in `state`, cut off when the log had that length."""
        self.put(state)
        self.judged += 1
        dirty = state.disks[0][7] >= 3 and state.disks[0][79] & 1  # lazy refcounts: they are wrong until somebody repairs them
        v = self.image.check(self.path, self.data)
        if dirty:
            self.image.check(self.path, self.data, repair='all')
            v = self.image.check(self.path, self.data)
        if v['corruptions'] or v['check-errors']:
            return [v['text']]
        return self.model.check(self.image.content(self.path, self.data), self.model.flushed(length), self.lax)
