# SPDX-License-Identifier: BSD-2-Clause
"""`strongroom check` against `qemu-img check`, on images that stock tools made and a seeded script damaged.

Every number must be qemu-img's, and so must be the status; what qemu-img's own repair brings to order ours has to, too, and
what could be read before must read the same afterwards. Where QEMU is wrong, it says so here:

 * a nonzero L1 entry without an offset has no L2 table (QEMU takes the header for one): `tweak` makes none;
 * QEMU's repair changes what a guest wrote, where a table entry leads to it: those images need not be clean;
 * -r of an image with bitmaps loses its snapshots in QEMU (it writes a header without them): test_keeps_all.
"""
import concurrent.futures
import json
import os
import random
import subprocess

import pytest

import lib
from lib import HOST, Host, run

MIB = 1 << 20
OFFSET = 0x00fffffffffffe00
COPIED, COMPRESSED = 1 << 63, 1 << 62

# options of qemu-img create, size, and: snapshots, bitmaps, data file, compressed clusters
KINDS = [
    ('cluster_size=512', MIB, {}),
    ('cluster_size=4k', 4 * MIB, {'snapshots': 2}),
    ('cluster_size=64k', 16 * MIB, {'snapshots': 1}),
    ('compat=0.10,cluster_size=4k', 4 * MIB, {'snapshots': 1}),
    ('extended_l2=on,cluster_size=16k', 8 * MIB, {}),
    ('extended_l2=on,cluster_size=64k', 8 * MIB, {'snapshots': 1}),
    ('cluster_size=1k,lazy_refcounts=on', 2 * MIB, {'bitmaps': 2}),
    ('cluster_size=4k', 4 * MIB, {'data': True}),
    ('cluster_size=2M', 40 * MIB, {}),
    ('cluster_size=64k,compression_type=zstd', 16 * MIB, {}),
    ('refcount_bits=1,cluster_size=512', 2 * MIB, {'packed': False}),
    ('refcount_bits=2,cluster_size=1k', 2 * MIB, {'snapshots': 1, 'packed': False}),
    ('refcount_bits=4,cluster_size=512', 2 * MIB, {'snapshots': 1}),
    ('refcount_bits=8,cluster_size=2k', 2 * MIB, {'snapshots': 1}),
    ('refcount_bits=32,cluster_size=512', 2 * MIB, {'snapshots': 1}),
    ('refcount_bits=64,cluster_size=512', 2 * MIB, {'snapshots': 1}),
    ('refcount_bits=1,cluster_size=64k', 2 * MIB, {'packed': False}),
]
NUMBERS = ('image-end-offset', 'total-clusters', 'check-errors', 'corruptions', 'leaks', 'allocated-clusters',
           'fragmented-clusters', 'compressed-clusters')


# ---- images ----

def scribble(path, rnd, size, cluster, n, packed):
    """Compressed first: qemu-io may pack more of them into a cluster that is discarded, and something else, by then."""
    words = []
    for i in range(n):
        at, length = rnd.randrange(size - 70000), rnd.choice((512, 4096, cluster, 3 * cluster, 60000))
        kind = 'c' if packed and i < n / 5 else rnd.choice('wwwwzd')
        if kind == 'c':
            at, length = at // cluster * cluster, cluster
        words += ['-c', {'w': f'write -P {rnd.randrange(255)}', 'c': f'write -c -P {rnd.randrange(255)}', 'z': 'write -z',
                         'd': 'discard'}[kind] + f' {at} {min(length, size - at)}']
    run('qemu-io', '-f', 'qcow2', *words, path, check=False)


def make(path, options, size, snapshots=0, bitmaps=0, data=False, packed=True):
    rnd = random.Random(path[-8:])
    if data:
        options += f',data_file={path}.data'
    run('qemu-img', 'create', '-q', '-f', 'qcow2', '-o', options, path, str(size))
    cluster = json.loads(run('qemu-img', 'info', '--output=json', path).stdout)['cluster-size']
    scribble(path, rnd, size, cluster, 25, packed and not data)
    for i in range(snapshots):
        run('qemu-img', 'snapshot', '-c', f's{i}', path)
        scribble(path, rnd, size, cluster, 5, packed)
    for i in range(bitmaps):
        run('qemu-img', 'bitmap', '--add', path, f'b{i}')
        scribble(path, rnd, size, cluster, 5, packed)
    return path


class Image:
    """The bytes, and where what is in them."""

    def __init__(self, path):
        with open(path, 'rb') as f:
            self.bytes = bytearray(f.read())
        self.version, self.cluster = self.get(4, 4), 1 << self.get(20, 4)
        self.l1, self.l1_entries = self.get(40), self.get(36, 4)
        self.table, self.table_entries = self.get(48), self.get(56, 4) * self.cluster // 8
        features = self.get(72) if self.version == 3 else 0
        self.bits = 1 << (self.get(96, 4) if self.version == 3 else 4)
        self.step = 16 if features & 16 else 8
        self.blocks = [b for b in (self.get(self.table + 8 * i) for i in range(self.table_entries)) if b]
        self.snapshots, at = [], self.get(64)
        for _ in range(self.get(60, 4)):
            at = (at + 7) // 8 * 8
            self.snapshots.append((self.get(at), self.get(at + 8, 4)))
            at += 40 + self.get(at + 36, 4) + self.get(at + 12, 2) + self.get(at + 14, 2)

    def get(self, at, n=8):
        return int.from_bytes(self.bytes[at:at + n].ljust(n, b'\0'), 'big')

    def put(self, at, value, n=8):
        self.bytes[at:at + n] = (value & (1 << 8 * n) - 1).to_bytes(n, 'big')

    def entries(self, l1s):
        """Places of the L2 entries that say something."""
        tables = [self.get(at + 8 * i) & OFFSET for at, n in l1s for i in range(n)]
        places = [t + i for t in tables if t for i in range(0, self.cluster, self.step)]
        return [p for p in places if self.get(p) or self.step == 16 and self.get(p + 8)]

    def save(self, path):
        with open(path, 'wb') as f:
            f.write(self.bytes)


def tweak(rnd, v, cluster, length):
    return rnd.choice((
        lambda: v ^ 1 << rnd.randrange(64),
        lambda: 0,
        lambda: v ^ COPIED,
        lambda: v + cluster * rnd.randrange(-3, 4),
        lambda: v & COPIED | rnd.randrange(length // cluster + 2) * cluster,
        lambda: v ^ 1 << rnd.randrange(9, 40),
        lambda: v ^ 1,
        lambda: v ^ COMPRESSED,
        lambda: v & (COPIED | COMPRESSED) | rnd.randrange(2 * length) // 512 * 512,
    ))()


def damage_entry(image, rnd, kind):
    l1s = [(image.l1, image.l1_entries)] if kind[0] == 'a' else image.snapshots
    if kind == 'table':
        places = [image.table + 8 * i for i in range(min(4, image.table_entries))]
    elif kind[1:] == 'l1':
        places = [at + 8 * i for at, n in l1s for i in range(n)]
    else:
        places = image.entries(l1s)
    if not places:
        return
    at = rnd.choice(places)
    if kind[1:] == 'l2' and image.step == 16 and rnd.random() < .3:
        at += 8
    v = tweak(rnd, image.get(at), image.cluster, len(image.bytes))
    if not (kind[1:] == 'l1' and v and not v & OFFSET):
        image.put(at, v)


def damage_refcounts(image, rnd):
    at = rnd.choice(image.blocks)
    used = min(image.cluster, len(image.bytes) // image.cluster * image.bits // 8 + 1)
    first = rnd.randrange(used)
    for i in range(at + first, min(at + used, at + first + rnd.choice((1, 1, 60)), len(image.bytes))):
        image.bytes[i] = rnd.choice((0, 0, 1, 2, 255, image.bytes[i] ^ 1 << rnd.randrange(8)))


def damage(image, rnd):
    for _ in range(rnd.choice((1, 1, 1, 2, 3))):
        kind = rnd.choice(('al1', 'al2', 'al2', 'al2', 'table', 'sl1', 'sl2', 'refs', 'refs', 'refs', 'bits', 'cut'))
        if kind == 'refs':
            damage_refcounts(image, rnd)
        elif kind == 'bits' and image.version == 3:
            image.put(72, image.get(72) ^ rnd.choice((1, 2)))
        elif kind == 'cut' and rnd.random() < .3:
            del image.bytes[rnd.randrange(len(image.bytes) // 2, len(image.bytes)):]
        elif kind not in ('bits', 'cut'):
            damage_entry(image, rnd, kind)


@pytest.fixture(scope='module')
def images():
    d = lib.scratch()
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        yield list(pool.map(lambda k: make(f'{d}/image{k:02}', KINDS[k][0], KINDS[k][1], **KINDS[k][2]), range(len(KINDS))))
    run('rm', '-rf', d)


def damaged(images, seed, path):
    rnd = random.Random(seed)
    image = Image(rnd.choice(images))
    damage(image, rnd)
    image.save(path)
    return path


# ---- both tools ----

def check(tool, path, *more, **kw):
    """Status and result."""
    p = subprocess.run([*tool, 'check', *more, '-f', 'qcow2', '--output=json', path], stdout=subprocess.PIPE,
                       stderr=subprocess.DEVNULL, timeout=lib.PATIENCE, **kw)
    return p.returncode, json.loads(p.stdout) if p.stdout else {}


def ours(path, *more, **kw):
    return check([HOST], path, *more, **kw)


def theirs(path, *more):
    return check(['qemu-img'], path, *more)


def numbers(result):
    return {n: result.get(n, 0) for n in NUMBERS}


def content(path):
    """None: cannot be read."""
    p = subprocess.run(['qemu-img', 'convert', '-f', 'qcow2', '-O', 'raw', path, path + '.raw'], stderr=subprocess.DEVNULL,
                       timeout=lib.PATIENCE)
    if p.returncode:
        return None
    with open(path + '.raw', 'rb') as f:
        return f.read()


def in_parallel(fn, seeds):
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        return [b for b in pool.map(fn, seeds) if b]


def test_intact(images):
    for path in images:
        status, result = theirs(path)
        assert status == 0
        assert ours(path) == (0, result), path
        before = os.stat(path)
        assert ours(path, '-r', 'all')[0] == 0
        assert os.stat(path).st_mtime_ns == before.st_mtime_ns, 'written to without need'


def test_numbers(images, tmp):
    """What cannot be opened, or is not looked through to the end, may be so for one of the two only."""
    def one(seed):
        path = damaged(images, seed, f'{tmp}/{seed}')
        (a, they), (b, we) = theirs(path), ours(path)
        os.unlink(path)
        if a == 1 and b in (1, 2) or a == b and numbers(they) == numbers(we):
            return None
        return seed, a, b, numbers(they), numbers(we)
    assert not in_parallel(one, range(220))


def test_repair(images, tmp):
    def one(seed):
        our, their = (damaged(images, seed, f'{tmp}/{seed}{x}') for x in 'ab')
        before = content(our)
        qemu_could = theirs(their, '-r', 'all')[0] == 0 and theirs(their)[0] == 0 and content(their) == before
        status, after = ours(our, '-r', 'all')[0], theirs(our)[0]
        bad = (qemu_could and after, status == 0 and after, before is not None and content(our) != before,
               after != 1 and ours(our)[0] != after)
        run('sh', '-c', f'rm {tmp}/{seed}[ab]*')
        return (seed, bad) if any(bad) else None
    assert not in_parallel(one, range(1000, 1070))


def test_leaks_only(images, tmp):
    path = f'{tmp}/i'
    for kind in (1, 2, 3, 13):
        image = Image(images[kind])
        block = image.blocks[0]
        free = len(image.bytes) // image.cluster - 1
        image.bytes[block + free * image.bits // 8 + (image.bits - 1) // 8] = 5
        image.save(path)
        assert ours(path)[0] in (2, 3) and ours(path)[1]['leaks'] == theirs(path)[1]['leaks'] >= 1
        fixed = ours(path, '-r', 'leaks')
        assert fixed[0] == 0 and fixed[1]['leaks-fixed'] == 1
        assert theirs(path)[0] == 0


def test_keeps_all(tmp):
    """Bitmaps and snapshots outlive a repair, and a new place for the refcounts."""
    path = make(f'{tmp}/image', 'cluster_size=4k', 4 * MIB, snapshots=2, bitmaps=2)
    image, before = Image(path), content(path)
    image.put(image.table, 0)
    image.save(path)
    assert ours(path)[0] == 2
    assert ours(path, '-r', 'all')[0] == 0
    assert theirs(path)[0] == 0
    info = json.loads(run('qemu-img', 'info', '--output=json', path).stdout)
    assert [s['name'] for s in info['snapshots']] == ['s0', 's1']
    assert [b['name'] for b in info['format-specific']['data']['bitmaps']] == ['b0', 'b1']
    assert content(path) == before
    assert ours(path)[0] == 0


def test_bitmaps(tmp):
    """What is wrong with them QEMU says at open; to us it is one more corruption, and nothing is freed."""
    path = make(f'{tmp}/image', 'cluster_size=4k', 4 * MIB, bitmaps=1)
    image = Image(path)
    at = 112
    while image.get(at, 4) != 0x23852875:
        at += 8 + (image.get(at + 4, 4) + 7) // 8 * 8
    directory = image.get(at + 24)
    table = image.get(directory)
    for place, value in ((directory, table + 512), (directory, 1 << 50), (table, 1 << 50), (table, 0x1234 << 9),
                         (table, image.get(table) | 2)):
        bad = Image(path)
        bad.put(place, value)
        bad.save(path + '.bad')
        status, result = ours(path + '.bad', '-r', 'all')
        assert status == 2 and result['corruptions'] >= 1 and 'leaks-fixed' not in result, (place, value)
    image.put(88, 0)  # the image says that its bitmaps are stale
    image.save(path)
    assert ours(path) == theirs(path)
    assert ours(path)[1]['leaks'] >= 2


def test_open_repairs(tmp):
    """An image that QEMU had open when it died, with refcounts that were to be written later."""
    path = f'{tmp}/image'
    run('qemu-img', 'create', '-q', '-f', 'qcow2', '-o', 'lazy_refcounts=on', path, '64M')
    run('qemu-io', '-c', 'write -P 5 1M 3M', '-c', 'abort', path, check=False)
    assert theirs(path)[0] == ours(path)[0] == 2
    with Host('--blockdev', f'driver=qcow2,node-name=v,file.driver=file,file.filename={path}',
              '--export', 'type=nbd,id=v,node-name=v,name=v,writable=on') as s:
        h = s.connect('v')
        assert h.pread(3 * MIB, MIB) == b'\x05' * 3 * MIB
        h.pwrite(b'\x06' * MIB, 20 * MIB)
        assert 'node v: image was not closed: ' in s.console()
        s.quit()
    assert theirs(path)[0] == ours(path)[0] == 0
    assert Image(path).get(72) == 0
    run('qemu-io', '-r', '-c', 'read -P 5 1M 3M', '-c', 'read -P 6 20M 1M', path)


def test_small_memory(tmp):
    """More clusters than there is memory for their refcounts."""
    path = f'{tmp}/image'
    run(HOST, 'create', '-q', '-f', 'qcow2', '-o', 'cluster_size=512,refcount_bits=64,preallocation=metadata', path, '50M')
    env = {**os.environ, 'STRONGROOM_MEM': '8M'}
    small = ours(path, env=env)
    assert small == theirs(path) == ours(path)
    image = Image(path)
    for block in image.blocks[3::7]:
        image.bytes[block:block + 512] = bytes(512)
    image.put(image.table + 8 * 7, 0)
    image.save(path)
    assert ours(path, env=env) == ours(path)
    assert ours(path, '-r', 'all', env=env)[0] == 0
    assert theirs(path)[0] == 0


# ---- words ----

def said(tool, *words):
    p = subprocess.run([tool, 'check', *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=lib.PATIENCE)
    return p.returncode, p.stdout, p.stderr


def test_human(images, tmp):
    leak, low = Image(images[0]), Image(images[0])
    leak.bytes[leak.blocks[0] + 2 * 5] = 1  # refcount + 256
    low.bytes[low.blocks[0] + 2 * 5 + 1] = 0
    leak.save(f'{tmp}/leak')
    low.save(f'{tmp}/low')
    for path in (images[0], images[9], f'{tmp}/leak', f'{tmp}/low'):
        a, b = said('qemu-img', path), said(HOST, path)
        assert a[:2] == b[:2]
        assert b[2] == a[2]
    assert said(HOST, '-q', f'{tmp}/leak')[:2] == said('qemu-img', '-q', f'{tmp}/leak')[:2]
    assert said(HOST, '-r', 'leaks', f'{tmp}/leak')[1].startswith(
        'The following inconsistencies were found and repaired:\n\n    1 leaked clusters\n    ')
    assert said(HOST, '--repair=all', '--output=human', f'{tmp}/low')[0] == 0
    assert said(HOST, f'{tmp}/low')[0] == 0


def test_words(images, tmp):
    image = images[0]
    assert said(HOST, '--help')[0] == 0 and '-r, --repair' in said(HOST, '--help')[1]
    for words, sentence in (((), 'Expecting one image file name'), ((image, image), 'Expecting one image file name'),
                            (('-r', 'some', image), "Unknown option value for -r (expecting 'leaks' or 'all'): some"),
                            (('--output=xml', image), '--output must be used with human or json as argument.'),
                            (('-x', image), 'unrecognized option'), (('-f', 'nosuch', image), 'Unknown file format'),
                            (('-f', 'file', f'{tmp}/none'), 'does not support checks'), ((f'{tmp}/none',), 'Could not open'),
                            ((HOST,), 'Image is not in qcow2 format')):
        status, out, err = said(HOST, *words)
        assert status == (63 if 'does not' in sentence else 1) and sentence in err and not out, (words, err)
    os.chmod(image, 0o400)
    assert said(HOST, '-f', 'qcow2', image)[0] == 0
