# SPDX-License-Identifier: BSD-2-Clause
"""Damaged qcow2 images: QEMU and we see the same in them, and writing through us does not make them worse.

Images that qemu-img and qemu-io made get a few changes of header fields, table entries, refcounts, snapshots or compressed data.
Each is opened read-only by a storage daemon of QEMU and by us: both refuse it, or both show the same size and content, cluster by
cluster, where a cluster that cannot be read is unreadable to both. Then a few writes, zeroes and discards go through us, and
`qemu-img check` must not find more errors than before; QEMU and we still agree, also on what was written.

The same seed gives the same images. STRONGROOM_LONG: many more of them; STRONGROOM_DIFF=N: only seed N, with all that was said.
"""
import concurrent.futures
import json
import os
import random
import shutil
import struct
import subprocess

import nbd
import pytest

import lib
from lib import Host, run

SEEDS = 3000 if os.environ.get('STRONGROOM_LONG') else 240
ONLY = os.environ.get('STRONGROOM_DIFF')
CHUNKS = 96  # guest clusters that are compared
COPIED, COMPRESSED = 1 << 63, 1 << 62
OFFSET = 0x00fffffffffffe00

# name: options of `qemu-img create`, size of the disk
BASES = {
    'v3': ('cluster_size=512', 60000),
    'v2': ('cluster_size=512,compat=0.10', 50000),
    'v3-4k': ('cluster_size=4k', 300000),
    'zstd': ('cluster_size=4k,compression_type=zstd', 250000),
    'sub': ('cluster_size=16k,extended_l2=on', 600000),
    'v3-64k': ('cluster_size=64k', 2000000),
    'ref1': ('cluster_size=512,refcount_bits=1', 40000),
    'ref64': ('cluster_size=1k,refcount_bits=64', 100000),
    'lazy': ('cluster_size=512,lazy_refcounts=on', 60000),
    'backed': ('cluster_size=512,backing_file=bees,backing_fmt=raw', 60000),
    'data': ('cluster_size=4k,data_file=DATA', 200000),
}


# To QEMU reserved bits of L1 and L2 entries are not there, names end at a zero byte, and behind the end of the file there are
# zeroes, in tables, too. To us that is damage.
LAXER = 'Header extension too large'  # said of the one that ends the list, whose length nobody needs
STRICTER = ('table overlap', 'table offset invalid', 'table: it ends behind the file', 'table too large', 'contains a zero byte')


def nothing(data):
    return not data.strip(b'\0') or not data.strip(b'b')


# ---- images ----

def make_base(d, name, seed):
    opts, size = BASES[name]
    path, rnd = f'{d}/{name}', random.Random(seed)
    run('qemu-img', 'create', '-q', '-u', '-f', 'qcow2', '-o', opts.replace('DATA', f'{path}.data'), path, str(size))
    cluster = json.loads(run('qemu-img', 'info', '-U', '--output=json', path).stdout)['cluster-size']

    def some(n):
        words = []
        for _ in range(n):
            at = rnd.randrange(size - 512) // 512 * 512
            length = min(rnd.choice((512, cluster, 3 * cluster)), (size - at) // 512 * 512)
            words += ['-c', rnd.choice((f'write -P {rnd.randrange(1, 255)}', f'write -P {rnd.randrange(1, 255)}', 'write -z',
                                        'write -z -u', 'discard')) + f' {at} {length}']
        for _ in range(0 if name == 'data' else 4):
            at = rnd.randrange(size // cluster) * cluster
            words += ['-c', f'discard {at} {cluster}', '-c', f'write -c -P {rnd.randrange(1, 255)} {at} {cluster}']
        run('qemu-io', '-f', 'qcow2', *words, path, cwd=d)
    some(20)
    if name not in ('data', 'ref1'):
        for snapshot in ('one', 'two'):
            run('qemu-img', 'snapshot', '-c', snapshot, path, cwd=d)
            some(8)
    return path


class Image:
    """The tables of an image that is not damaged, as lists of places: (offset, width)."""

    def __init__(self, data):
        self.data = data
        self.version, = struct.unpack_from('>I', data, 4)
        self.bits, self.size = struct.unpack_from('>IQ', data, 20)
        self.cluster = 1 << self.bits
        l1_size, l1, ref, ref_clusters, snapshots, snap = struct.unpack_from('>IQQIIQ', data, 36)
        features, = struct.unpack_from('>Q', data, 72) if self.version == 3 else (0,)
        self.width = 16 if features & 16 else 8
        end = struct.unpack_from('>I', data, 100)[0] if self.version == 3 else 72
        order = struct.unpack_from('>I', data, 96)[0] if self.version == 3 else 4
        self.places = {
            'header': [(at, w) for at, w in ((0, 4), (4, 4), (8, 8), (16, 4), (20, 4), (24, 8), (32, 4), (36, 4), (40, 8), (48, 8),
                                             (56, 4), (60, 4), (64, 8), (72, 8), (80, 8), (88, 8), (96, 4), (100, 4), (104, 1))
                       if at < end],
            'extensions': [(at, 4) for at in range(end, min(end + 200, self.cluster), 4)],
            'reftable': [(ref + i * 8, 8) for i in range(ref_clusters * self.cluster // 8)],
            'l1': [(l1 + i * 8, 8) for i in range(l1_size)]}
        tables = {self.get(p) & OFFSET for p in self.places['l1']}
        at = snap
        self.places['snapshots'], self.places['snapshot l1'] = [], []
        for _ in range(snapshots):
            self.places['snapshots'] += [(at, 8), (at + 8, 4), (at + 12, 2), (at + 14, 2), (at + 32, 4), (at + 36, 4), (at + 48, 8)]
            offset, n, ids, names = struct.unpack_from('>QIHH', data, at)
            more = [(offset + i * 8, 8) for i in range(n)]
            tables |= {self.get(p) & OFFSET for p in more}
            self.places['snapshot l1'] += more
            at += (40 + struct.unpack_from('>I', data, at + 36)[0] + ids + names + 7) // 8 * 8
        self.places['l2'] = [(t + i, 8) for t in sorted(tables - {0}) for i in range(0, self.cluster, 8)]
        blocks = {self.get(p) & OFFSET for p in self.places['reftable']} - {0}
        w = max(1, (1 << order) // 8)
        self.places['refcounts'] = [(b + i * w, w) for b in sorted(blocks) for i in range(self.cluster // w)]
        self.places['compressed'] = []
        for p in self.places['l2'][::self.width // 8]:
            if self.get(p) & COMPRESSED:
                host = self.get(p) & ((1 << (62 - (self.bits - 8))) - 1)
                self.places['compressed'] += [(host + i, 1) for i in range(30)]
        self.targets = [0, l1, ref, snap, *sorted(tables), *sorted(blocks), len(data), len(data) + self.cluster]

    def get(self, place):
        return int.from_bytes(self.data[place[0]:place[0] + place[1]], 'big')

    def reserved_bits(self):
        return any(self.get(p) & 0x7f000000000001ff for p in self.places['l1']) or any(
            self.get(p) & 0x3f000000000001fe and not self.get(p) & COMPRESSED for p in self.places['l2'])

    def damage(self, rnd):
        """One place gets another value; what was done, in words."""
        kind = rnd.choice(['header', 'extensions', 'l1', 'l1', 'l2', 'l2', 'l2', 'l2', 'reftable', 'refcounts', 'refcounts', 'snapshots',
                           'snapshot l1', 'compressed'])
        places = [p for p in self.places[kind] if p[0] + p[1] <= len(self.data)]
        used = [p for p in places if self.get(p)] if rnd.random() < .8 else places
        if not used:
            return f'{kind}: none'
        place = rnd.choice(used)
        old, bits = self.get(place), 8 * place[1]
        flags = old & (COPIED | COMPRESSED | 1)
        new = rnd.choice((0, 1, (1 << bits) - 1, rnd.getrandbits(bits), old ^ 1 << rnd.randrange(bits), old ^ 1 << rnd.randrange(bits),
                          old + self.cluster, old - self.cluster, flags | rnd.choice(self.targets), COPIED | rnd.choice(self.targets),
                          self.get(rnd.choice(used)))) & ((1 << bits) - 1)
        self.data[place[0]:place[0] + place[1]] = new.to_bytes(place[1], 'big')
        return f'{kind} at {place[0]:#x}: {old:#x} -> {new:#x}'


# ---- the two who look ----

class Peer:
    """A storage daemon of QEMU. After the first cluster that it finds corrupt its node is of no use: it is opened again."""

    def __init__(self):
        self.dir = lib.scratch()
        self.start()

    def start(self):
        self.proc = subprocess.Popen(
            ['qemu-storage-daemon', '--nbd-server', f'addr.type=unix,addr.path={self.dir}/nbd', '--chardev',
             f'socket,id=q,path={self.dir}/qmp,server=on,wait=off', '--monitor', 'chardev=q', '--pidfile', f'{self.dir}/pid'],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        end = lib.time.time() + lib.PATIENCE
        while not os.path.exists(f'{self.dir}/pid'):
            assert self.proc.poll() is None and lib.time.time() < end, 'waited for qemu-storage-daemon'
            lib.time.sleep(.01)
        self.qmp = lib.Qmp(f'{self.dir}/qmp')

    def open(self, node):
        reply = self.qmp.raw(json.dumps({'execute': 'blockdev-add', 'arguments': {**node, 'node-name': 'v'}}))
        if 'error' in reply:
            return reply['error']['desc']
        assert 'return' in self.qmp('block-export-add', type='nbd', id='v', node_name='v', name='v')
        self.nbd = nbd.NBD()
        self.nbd.set_export_name('v')
        self.nbd.connect_unix(f'{self.dir}/nbd')
        return None

    def close(self):
        hang_up(self.nbd)
        self.nbd = None
        self.qmp('block-export-del', id='v', mode='hard')
        while 'error' in self.qmp('blockdev-del', node_name='v'):  # until the connection has ended
            assert self.proc.poll() is None
            lib.time.sleep(.002)

    def look(self, node, cluster):
        """(size, [bytes or None]), or the sentence of the refusal."""
        refused = self.open(node)
        if refused:
            return refused
        size, seen = self.nbd.get_size(), []
        for at, n in spots(size, cluster):
            seen.append(read(self.nbd, at, n))
            if seen[-1] is None:
                self.close()
                assert not self.open(node)
        self.close()
        return size, seen

    def stop(self):
        self.qmp('quit')
        self.proc.wait(lib.PATIENCE)
        self.qmp.close()
        shutil.rmtree(self.dir, ignore_errors=True)


def spots(size, cluster):
    at = [n * cluster for n in range(min(CHUNKS, (size + cluster - 1) // cluster))]
    if size > CHUNKS * cluster:
        at.append((size - 1) // cluster * cluster)
    return [(a, min(cluster, size - a)) for a in at]


def hang_up(h):
    try:
        h.shutdown()
    except nbd.Error:
        pass  # QEMU has done so


def read(h, at, n):
    try:
        return h.pread(n, at)
    except nbd.Error:
        return None


def serve(node, writable=False):
    """None: we refuse, in good order."""
    s = Host('--blockdev', json.dumps({**node, 'node-name': 'v', 'read-only': not writable}), '--export',
             f'type=nbd,id=v,node-name=v,name=v,writable={"on" if writable else "off"}', wait=False)

    def settled():
        return s.proc.poll() is not None or 'ready: 1 exports\n' in s.console()
    end = lib.time.time() + lib.PATIENCE
    while not settled():
        assert lib.time.time() < end, 'waited for us to serve or refuse:\n' + s.console()
        lib.time.sleep(.002)
    if s.proc.poll() is None:
        return s, ''
    assert s.proc.poll() == 3 and 'error: ' in s.console(), s.console()
    said = s.console()
    shutil.rmtree(s.dir, ignore_errors=True)
    return None, said


def leave(s):
    """What was said. What was found corrupt cannot be closed in order; nothing else is wrong then."""
    q = s.qmp()
    q('quit')
    status, said = s.status(), s.console()
    corrupt = 'is corrupt' in said and 'off: not clean' in said and 'panic' not in said
    assert status == 0 and 'off: clean' in said or status == 5 and corrupt, f'status {status}:\n{said}'
    q.close()
    shutil.rmtree(s.dir, ignore_errors=True)
    return said


def look(node, cluster):
    s, said = serve(node)
    if not s:
        return said
    with s:
        h = s.connect('v')
        size = h.get_size()
        seen = [read(h, at, n) for at, n in spots(size, cluster)]
        h.shutdown()
        return size, seen, leave(s)


# ---- one image ----

class Case:
    def __init__(self, d, peer, name, base, seed):
        self.rnd, self.peer, self.name = random.Random(seed), peer, name
        self.path, self.log, self.said = f'{d}/{seed}', [f'seed {seed}: {name}'], ''
        self.image = Image(bytearray(open(base, 'rb').read()))
        self.sound = Image(bytes(self.image.data))
        self.harm = 0 if seed % 10 == 0 else self.rnd.choice((1, 1, 2, 3))
        for _ in range(self.harm):
            self.log.append(self.image.damage(self.rnd))
        with open(self.path, 'wb') as f:
            f.write(self.image.data)
        self.node = {'driver': 'qcow2', 'file': {'driver': 'file', 'filename': self.path},
                     'backing': {'driver': 'raw', 'file': {'driver': 'file', 'filename': f'{d}/bees'}} if name == 'backed' else None}
        if name == 'data':
            shutil.copy(base + '.data', self.path + '.data')
            self.node['data-file'] = {'driver': 'file', 'filename': self.path + '.data'}

    def say(self, *words):
        self.log.append(' '.join(str(w) for w in words))

    def compare(self):
        """Whether both opened it."""
        theirs, ours = self.peer.look({**self.node, 'read-only': True}, self.image.cluster), look(self.node, self.image.cluster)
        if isinstance(theirs, str) or isinstance(ours, str):
            self.say('theirs:', theirs if isinstance(theirs, str) else 'open', '; ours:', ours if isinstance(ours, str) else 'open')
            if isinstance(ours, str) and (isinstance(theirs, str) or any(words in ours for words in STRICTER)) or theirs == LAXER:
                return False
            raise AssertionError('one of the two refuses')
        assert theirs[0] // 512 == ours[0] // 512, f'sizes {theirs[0]}, {ours[0]}'  # QEMU has whole sectors
        reserved = self.image.reserved_bits()
        for (at, _), a, b in zip(spots(theirs[0], self.image.cluster), theirs[1], ours[1]):
            if b is None and a is not None and (reserved or nothing(a)):
                continue
            assert a == b, f'cluster at {at}: theirs {a and a[:16]}, ours {b and b[:16]}'
        return True

    def unseen(self):
        """Damage that a writer does not find who reads no tables of snapshots, and no entries but those that it changes."""
        new = {kind: [(p, self.image.get(p)) for p in places if self.image.get(p) != self.sound.get(p)]
               for kind, places in self.sound.places.items()}
        tables = new['l1'] or new['snapshot l1'] or new['snapshots'] or any(p == (40, 8) for p, _ in new['header'])
        freed = any(not v for _, v in new['refcounts'])
        twice = any(v & OFFSET and not v & (COPIED | COMPRESSED) for _, v in new['l2'])
        return self.sound.places['snapshots'] and (tables or freed) or twice

    def errors(self):
        """What qemu-img check counts; None: it cannot, or it counts what follows from garbage."""
        if self.name == 'data':
            return None
        p = subprocess.run(['qemu-img', 'check', '--output=json', '-f', 'qcow2', self.path], stdout=subprocess.PIPE,
                           stderr=subprocess.DEVNULL, timeout=lib.PATIENCE)
        try:
            r = json.loads(p.stdout)
        except ValueError:
            return None
        return (r.get('corruptions', 0), r.get('leaks', 0)) if r.get('corruptions', 0) < 100 else None

    def write(self):
        s, said = serve(self.node, writable=True)
        if not s:
            self.say('not opened for writing:', said)
            assert self.harm
            return
        with s:
            h = s.connect('v')
            size = h.get_size()
            for _ in range(self.rnd.randrange(1, 9) if size else 0):
                at = self.rnd.randrange(size)
                n = min(self.rnd.choice((1, 512, self.image.cluster, 3 * self.image.cluster)), size - at)
                kind = self.rnd.choice(('pwrite', 'pwrite', 'zero', 'trim', 'flush'))
                words = {'pwrite': (bytes([self.rnd.randrange(256)]) * n, at), 'zero': (n, at), 'trim': (n, at), 'flush': ()}[kind]
                try:
                    getattr(h, kind)(*words)
                    self.say(kind, *words[-1:], n)
                except nbd.Error as e:
                    self.say(kind, *words[-1:], n, e)
                    assert self.harm, 'a sound image cannot be written'
            h.shutdown()
            self.said = leave(s)
            self.say(self.said if self.harm else '')

    def run(self):
        if not self.compare():
            return 'refused'
        before = self.errors()
        self.write()
        after = self.errors()
        self.say('check:', before, '->', after)
        bit = 'is corrupt' in self.said  # qemu-img may take the header for a table, where an entry says so: one more entry
        if before is not None and not (bit and self.name == 'lazy'):  # refcounts are due when it is closed in order
            assert self.unseen() or after is not None and after[0] <= before[0] + bit, 'more errors than before'
        if not self.harm:
            assert after in ((0, 0), None)
        self.compare()
        return 'sound' if not self.harm else 'damaged'


@pytest.fixture(scope='module')
def bases():
    d = lib.scratch()
    with open(f'{d}/bees', 'wb') as f:
        f.write(b'b' * 100000)
    yield d, [(name, make_base(d, name, i)) for i, name in enumerate(BASES)]
    shutil.rmtree(d, ignore_errors=True)


def some_cases(d, bases, seeds):
    peer, ends, bad = Peer(), [], []
    for seed in seeds:
        case = None
        try:
            case = Case(d, peer, *bases[seed % len(bases)], seed)
            ends.append(case.run())
            for p in (case.path, case.path + '.data'):
                if os.path.exists(p):
                    os.unlink(p)
        except Exception as e:
            bad.append("\n".join(case.log + [repr(e)]))
        if ONLY:
            print('\n'.join(case.log))
    peer.stop()
    return ends, bad


def test_damaged_images(bases):
    d, images = bases
    seeds = [int(ONLY)] if ONLY else range(SEEDS)
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        parts = list(pool.map(lambda part: some_cases(d, images, seeds[part::2]), range(2)))
    ends, bad = sum((p[0] for p in parts), []), sum((p[1] for p in parts), [])
    assert not bad, f'{len(bad)} of {len(seeds)}:\n\n' + '\n\n'.join(bad[:8])
    if not ONLY:
        assert all(ends.count(kind) > SEEDS // 20 for kind in ('refused', 'sound', 'damaged')), ends
