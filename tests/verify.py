# SPDX-License-Identifier: BSD-2-Clause
"""Random requests from several NBD connections, and a model that says for every piece of the disk what it may hold.

The disk is cut into zones and a zone into units (512 bytes, a sector, where power cuts are tested). Each unit of a write holds the write's
number and its own address, repeated, so that content names its origin and half a unit is recognised (units that are
no multiple of sectors, for writes of any alignment, may be halved by another write at the same time). The model remembers every request with
two stamps of one clock: when it was issued, and when its reply was seen. What a unit may hold follows from one rule:

    a write's content is allowed unless a later one that must be there covers the unit:
    one that was issued after the first was done, and is *binding*.

Binding is what the test demands: all requests with a reply (reads, restarts, after `quit`), or those before the issue of a flush with a reply
(power cuts), and FUA writes. Requests without a reply, and those that failed, are allowed and never binding. Requests that overlapped in time
are allowed both. A trim allows zeroes and forbids nothing.
"""
import collections
import errno
import json
import os
import random
import select
import struct
import time

import lib
from lib import nbd

NEVER = 1 << 62
BUCKET = 8  # units; requests are looked up by bucket


class Request:
    __slots__ = ('seq', 'kind', 'zone', 'first', 'count', 'issued', 'done', 'fua', 'position', 'buf', 'errno')

    def covers(self, unit):
        return self.first <= unit < self.first + self.count

    def __repr__(self):
        done = f'done {self.done}' if self.done != NEVER else errno.errorcode.get(self.errno) if self.errno else 'no reply'
        return f'{self.kind}{" FUA" if self.fua else ""} {self.seq} of units {self.first}+{self.count}, issued {self.issued}, {done}'


class Zone:
    """units: of `unit` bytes, from byte `start` on. client: the connection that uses it; None: all of them."""

    def __init__(self, start, size, unit=512, client=None):
        self.start, self.unit, self.units, self.client = start, unit, size // unit, client
        self.touched = collections.defaultdict(list)

    def offset(self, unit):
        return self.start + unit * self.unit


def content(seq, offset, unit):
    return struct.pack('<QQ', seq, offset) * (unit // 16)


class Model:
    """base: what the disk held in the beginning, bytes or None for zeroes."""

    def __init__(self, zones, base=None):
        self.zones, self.base = zones, base
        self.clock = 0
        self.requests = {}
        self.flushes = []             # (position, stamp): what was done before `stamp` is safe from there on
        self.position = lambda: 0     # of the log below, if there is one

    def tick(self):
        self.clock += 1
        return self.clock

    def begin(self, kind, zone, first, count, fua=False):
        r = Request()
        r.seq = r.issued = self.tick()
        r.kind, r.zone, r.first, r.count, r.fua = kind, zone, first, count, fua
        r.done, r.position, r.errno, r.buf = NEVER, NEVER, 0, None
        if kind in ('write', 'zero', 'trim'):
            self.requests[r.seq] = r
            for b in range(first // BUCKET, (first + count - 1) // BUCKET + 1):
                zone.touched[b].append(r)
        return r

    def payload(self, r):
        z = r.zone
        return b''.join(content(r.seq, z.offset(u), z.unit) for u in range(r.first, r.first + r.count))

    def end(self, r, error=0):
        r.errno = error
        if not error:
            r.done, r.position = self.tick(), self.position()
            if r.kind == 'flush':
                self.flushes.append((r.position, r.issued))

    # What is binding

    @staticmethod
    def completed(r):
        return r.done != NEVER

    def flushed(self, position=NEVER - 1):
        stamp = max((s for p, s in self.flushes if p <= position), default=0)
        return lambda r: r.done < stamp or r.fua and r.position <= position

    # Judgement

    def _initial(self, z, unit):
        at = z.offset(unit)
        return self.base[at:at + z.unit] if self.base else bytes(z.unit)

    def _fault(self, z, unit, got, binding, lax, live):
        """None, or what is wrong with this content of a unit."""
        here = [r for r in z.touched[unit // BUCKET] if r.covers(unit)]
        must = [r for r in here if r.kind != 'trim' and binding(r)]
        last = max(must, key=lambda r: r.issued, default=None)
        floor = last.issued if last else -1
        was = self._initial(z, unit)
        if floor < 0 and got == was:
            return None
        if not any(got) and any(r.kind != 'write' and r.done > floor for r in here):
            return None
        seq, at = struct.unpack('<QQ', got[:16])
        r = self.requests.get(seq)
        if r and r in here and r.kind == 'write' and got == content(seq, z.offset(unit), z.unit):
            if r.done > floor:
                return None
            return f'{last} is lost: there is still {r}'
        if (z.unit % 512 or live) and self._mixed(z, unit, got, [r for r in here if r.done > floor], floor < 0):
            return None
        if lax and any(r.done > floor and not binding(r) for r in here):
            return None  # not safe yet, and may hold anything
        text = 'zeroes' if not any(got) else 'the initial content' if got == was else self._parts(got)
        recent = [x for x in here if x.done > floor or x is last]
        return f'there is {text}; ' + (f'{last} is lost; ' if last else '') + f'requests that count: {recent}'

    def _mixed(self, z, unit, got, allowed, initial):
        """Each part by itself is one that is allowed."""
        parts = {struct.pack('<QQ', r.seq, z.offset(unit)) if r.kind == 'write' else bytes(16) for r in allowed}
        if initial:
            was = self._initial(z, unit)
            parts |= {bytes(was[i:i + 16]) for i in range(0, z.unit, 16)}
        return all(bytes(got[i:i + 16]) in parts for i in range(0, z.unit, 16))

    def _parts(self, got):
        """Whose bytes a unit holds, piece by piece."""
        text, before = [], None
        for i in range(0, len(got) - 15, 16):
            seq, at = struct.unpack('<QQ', got[i:i + 16])
            r = self.requests.get(seq)
            who = (f'{r.kind} {seq} of {at:#x}', r.issued, r.done) if r else got[i:i + 16].hex() if seq else 'zeroes'
            if who != before:
                text.append(f'from {i}: {who}')
            before = who
        return ', '.join(text)

    def check_range(self, z, first, count, data, binding, lax=False, live=False, most=4):
        """Faults in `data`, what was read of `count` units. live: while requests were in flight, so units may be seen half written."""
        found, u, end = [], z.unit, first + count
        at = first
        while at < end and len(found) < most:
            stop = min(end, (at // BUCKET + 1) * BUCKET)
            piece = data[(at - first) * u:(stop - first) * u]
            if at // BUCKET in z.touched or piece != (self.base[z.offset(at):z.offset(stop)] if self.base else bytes(len(piece))):
                for i in range(at, stop):
                    text = self._fault(z, i, piece[(i - at) * u:(i - at + 1) * u], binding, lax, live)
                    if text:
                        found.append(f'at {z.offset(i):#x}: {text}')
            at = stop
        return found

    def check(self, data, binding=None, lax=False):
        """Faults in `data`, the whole disk."""
        found = []
        for z in self.zones:
            end = z.offset(z.units)
            found += self.check_range(z, 0, z.units, data[z.start:end], binding or self.completed, lax)
        return found[:8]

    def check_touched(self, h, binding=None):
        """The same for a disk that is too large to be read: what requests touched is read over NBD."""
        found = []
        for z in self.zones:
            for b in sorted(z.touched):
                first = b * BUCKET
                count = min(BUCKET, z.units - first)
                found += self.check_range(z, first, count, h.pread(count * z.unit, z.offset(first)), binding or self.completed)
        return found[:8]


MIX = {'write': 60, 'fua': 5, 'zero': 8, 'trim': 8, 'read': 15, 'flush': 4}
LENGTHS = (1, 1, 2, 7, 8, 8, 8, 8, 16, 16, 24, 64, 128, 129, 300)


class Load:
    """Several connections, each with its own zones and those that are everybody's, `depth` requests in flight on each."""

    def __init__(self, model, handles, mix=MIX, depth=8, seed=1, lengths=LENGTHS):
        self.model, self.handles, self.depth, self.lengths = model, handles, depth, lengths
        self.rnd = random.Random(seed)
        self.kinds, self.weights = list(mix), list(mix.values())
        self.flight = [0] * len(handles)
        self.faults, self.failed, self.dead = [], [], False
        self.done = 0
        self.zones = [[z for z in model.zones if z.client in (None, i)] for i in range(len(handles))]

    def _done(self, i, r):
        def callback(error):
            self.flight[i] -= 1
            self.done += 1
            self.model.end(r, error.value)
            if error.value:
                if error.value != errno.ENOTCONN:  # that is no reply
                    self.failed.append(r)
            elif r.kind == 'read':
                got = bytes(r.buf.to_bytearray())
                self.faults += self.model.check_range(r.zone, r.first, r.count, got, lambda w: w.done < r.issued, live=True)
            r.buf = None
            return 1
        return callback

    def issue(self, i, kind=None, zone=None, first=None, count=None):
        """One request on connection i; what is not given is random."""
        h, m, rnd = self.handles[i], self.model, self.rnd
        kind = kind or rnd.choices(self.kinds, self.weights)[0]
        z = zone or rnd.choice(self.zones[i])
        if z.unit % 512 and kind == 'trim':
            kind = 'zero'  # a trim may stop in the midst of such a unit
        if first is None:
            count = min(rnd.choice(self.lengths), z.units)
            first = rnd.randrange(z.units - count + 1)
            if rnd.random() < .5:
                first &= ~7
        fua = kind == 'fua'
        r = m.begin('write' if fua else kind, z, first, count, fua)
        at, n, done = z.offset(first), count * z.unit, self._done(i, r)
        self.flight[i] += 1
        if r.kind == 'write':
            r.buf = nbd.Buffer.from_bytearray(bytearray(m.payload(r)))
            h.aio_pwrite(r.buf, at, done, nbd.CMD_FLAG_FUA if fua else 0)
        elif kind == 'zero':
            h.aio_zero(n, at, done, rnd.choice((0, nbd.CMD_FLAG_NO_HOLE)))
        elif kind == 'trim':
            h.aio_trim(n, at, done)
        elif kind == 'read':
            r.buf = nbd.Buffer(n)
            h.aio_pread(r.buf, at, done)
        else:
            h.aio_flush(done)
        return r

    def turn(self, timeout):
        """Waits for the connections once. False: one of them is gone."""
        p, of = select.poll(), {}
        for h in self.handles:
            if h.aio_is_dead() or h.aio_is_closed():
                return False
            way = h.aio_get_direction()
            of[h.aio_get_fd()] = (h, way)
            p.register(h.aio_get_fd(), (select.POLLIN if way & nbd.AIO_DIRECTION_READ else 0) |
                       (select.POLLOUT if way & nbd.AIO_DIRECTION_WRITE else 0))
        for fd, event in p.poll(timeout * 1000):
            h, way = of[fd]
            if event & (select.POLLIN | select.POLLHUP | select.POLLERR) and way & nbd.AIO_DIRECTION_READ:
                h.aio_notify_read()
            elif event & select.POLLOUT:
                h.aio_notify_write()
        return True

    def run(self, requests=NEVER, until=lambda: False, timeout=lib.PATIENCE):
        """Issues until that many are done, until() says so, or the server is gone (self.dead); then waits for what is in flight."""
        end, start = time.time() + timeout, self.done
        try:
            while True:
                going = self.done - start < requests and not until() and not self.faults
                if not going and not any(self.flight):
                    break
                for i in range(len(self.handles)):
                    while going and self.flight[i] < self.depth:
                        self.issue(i)
                if not self.turn(.05):
                    self.dead = True
                    break
                assert time.time() < end, f'waited {timeout} s for {self.flight} requests in flight'
        except nbd.Error:
            self.dead = True
        assert not self.faults, '\n'.join(self.faults[:8])
        return self

    def flush(self):
        self.issue(0, 'flush')
        return self.run(requests=0)


def zones_for(size, clients, odd=False, shared=True):
    """A private zone per connection, one for all, and perhaps one with units that no sector knows."""
    parts = clients + shared + odd
    part = size // parts & ~4095
    zones = [Zone(i * part, part, client=i) for i in range(clients)]
    if shared:
        zones.append(Zone(clients * part, part))
    if odd:
        at = (clients + shared) * part
        zones.append(Zone(at + 16, min(part, 1 << 20) - 32, unit=80))
    return zones


# ---- Images ----

class Image:
    """A qcow2 file and what belongs to it. opts: of qemu-img create; `below`: bytes of a backing image; `data`: has an external data file;
    made: is there already."""

    def __init__(self, path, size, opts='', below=None, data=False, made=False):
        self.path, self.size, self.opts, self.data = path, size, opts, f'{path}.data' if data else None
        self.backing = f'{path}.base' if below is not None else None
        if made:
            return
        words = [opts] if opts else []
        if below is not None:
            with open(f'{path}.raw', 'wb') as f:
                f.write(below)
            lib.run('qemu-img', 'convert', '-q', '-f', 'raw', '-O', 'qcow2', '-c', f'{path}.raw', self.backing)
        if data:
            words.append(f'data_file={self.data}')
        back = ['-b', self.backing, '-F', 'qcow2'] if self.backing else []
        lib.run('qemu-img', 'create', '-q', '-f', 'qcow2', *back, *(['-o', ','.join(words)] if words else []), path, str(size))

    def spec(self, path=None, data=None):
        d = f',data-file.driver=file,data-file.filename={data or self.data}' if self.data else ''
        return f'driver=qcow2,file.driver=file,file.filename={path or self.path}{d}'

    def check(self, path=None, data=None, repair=None):
        """qemu-img's verdict: {'corruptions': n, 'leaks': n, ...}, and its words."""
        p = lib.run('qemu-img', 'check', *(['-r', repair] if repair else []), '--output=json', '--image-opts', self.spec(path, data), check=False)
        assert p.returncode in (0, 2, 3), f'qemu-img check: status {p.returncode}\n{p.stdout}'
        v = collections.defaultdict(int, json.loads(p.stdout[p.stdout.index('{\n'):]))
        v['text'] = p.stdout[:400]
        return v

    def sound(self, path=None, data=None, leaks=False):
        v = self.check(path, data)
        assert not v['corruptions'] and not v['check-errors'] and (leaks or not v['leaks']), f'{path or self.path}: {v["text"]}'

    def content(self, path=None, data=None):
        """What qemu-img reads of it."""
        out = f'{path or self.path}.out'
        lib.run('qemu-img', 'convert', '-U', '--image-opts', '-O', 'raw', self.spec(path, data), out)
        with open(out, 'rb') as f:
            text = f.read()
        os.unlink(out)
        return text

    def snapshot(self, name):
        """What qemu-img reads of an internal snapshot."""
        lib.run('qemu-img', 'convert', '-l', f'snapshot.name={name}', '-f', 'qcow2', '-O', 'raw', self.path, f'{self.path}.out')
        with open(f'{self.path}.out', 'rb') as f:
            text = f.read()
        os.unlink(f'{self.path}.out')
        return text

    def qemu_io(self, *commands):
        out = lib.run('qemu-io', '--image-opts', *sum((['-c', c] for c in commands), []), self.spec()).stdout
        assert 'failed' not in out and 'error' not in out.lower(), out
        return out

    # As words of ours

    def host_words(self, name='v', export='writable=on', more='', discard='unmap'):
        """discard: what the disk does with it."""
        data = f',data-file.driver=file,data-file.filename={self.data},data-file.discard={discard}' if self.data else ''
        file = f'file.driver=file,file.filename={self.path},file.discard={discard}'
        return ['--blockdev', f'driver=qcow2,node-name={name},discard=unmap,{file}{data}{more}',
                '--export', f'type=nbd,id={name},node-name={name},name={name},{export}']

    def firmware_words(self, name, disks, spare=0, specs=None, more='', export='writable=on'):
        """The same for the firmware; its disks are added to `disks`. spare: room that the file gets; specs: what to attach instead of the files."""
        def disk(path, spec=None, grow=0):
            os.truncate(path, os.path.getsize(path) + grow + 511 & ~511)
            disks.append(spec or path)
            return f'driver=virtio-blk,serial=d{len(disks) - 1},discard=unmap'.replace(',', ',KEY.').replace('driver', 'KEY.driver', 1)
        specs = list(specs or (None, None))
        words = f'--blockdev driver=qcow2,node-name={name},discard=unmap,' + disk(self.path, specs[0], spare).replace('KEY', 'file')
        if self.data:
            words += ',' + disk(self.data, specs[1], spare).replace('KEY', 'data-file')
        if self.backing:
            words += ',backing.driver=qcow2,backing.read-only=on,' + disk(self.backing, f'driver=file,filename={self.backing},read-only=on').replace(
                'KEY', 'backing.file')
        return f'{words}{more} --export type=nbd,id={name},node-name={name},name={name},{export}'


class Peer(lib.Served):
    """qemu-storage-daemon in our place: what holds for it, the tests must not find fault with."""
    unix = True

    def __init__(self, *words, wait=True):
        import subprocess
        self.dir = lib.scratch()
        self.proc = subprocess.Popen(
            ['qemu-storage-daemon', '--nbd-server', f'addr.type=unix,addr.path={self.dir}/nbd', *words, '--chardev',
             f'socket,id=q0,path={self.dir}/qmp,server=on,wait=off', '--monitor', 'chardev=q0', '--pidfile', f'{self.dir}/pid'],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=open(f'{self.dir}/err', 'w'))
        if wait:
            self.wait('the PID file', lambda: os.path.exists(f'{self.dir}/pid'))

    console, uri, qmp = lib.Host.console, lib.Host.uri, lib.Host.qmp

    def quit(self):
        assert self.qmp()('quit') == {'return': {}}
        rc = self.status()
        assert rc == 0, f'status {rc}:\n{self.console()}'
