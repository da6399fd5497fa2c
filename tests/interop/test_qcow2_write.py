# SPDX-License-Identifier: BSD-2-Clause
"""qcow2 images written under load: four connections, eight requests in flight on each, every read and the whole image held against a model.

Afterwards qemu-img finds neither errors nor leaks, reads what the model says, and the snapshots inside still hold what they held. What we wrote,
qemu-io goes on writing, and we read; and the other way round. The model is in verify.py.
"""
import os
import random
import subprocess
import sys
import time

import pytest

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
import lib  # noqa: E402
import verify  # noqa: E402
from lib import HOST, VM, Host, run  # noqa: E402

LONG = bool(os.environ.get('STRONGROOM_LONG'))
SIZE = 10 << 20
MANY, FEW = (20000, 5000) if LONG else (2500, 700)

# name: (options of qemu-img create, what else is special)
SHAPES = {
    'v3': ('', ''),
    'v2': ('compat=0.10', ''),
    'v2-512': ('compat=0.10,cluster_size=512', ''),
    'v2-backing': ('compat=0.10', 'backing'),
    '512': ('cluster_size=512', ''),
    '1k': ('cluster_size=1k', 'backing'),
    '4k': ('cluster_size=4k', 'snapshots'),
    '256k': ('cluster_size=256k', 'backing'),
    '1M': ('cluster_size=1M', ''),
    '2M': ('cluster_size=2M', 'snapshots'),
    'sub': ('extended_l2=on', ''),
    'sub-16k': ('extended_l2=on,cluster_size=16k', 'backing'),
    'sub-2M': ('extended_l2=on,cluster_size=2M', 'snapshots'),
    'lazy': ('lazy_refcounts=on', 'backing'),
    'lazy-sub': ('lazy_refcounts=on,extended_l2=on', ''),
    'backing': ('', 'backing'),
    'compressed': ('', 'compressed'),
    'compressed-4k': ('cluster_size=4k', 'compressed'),
    'zstd': ('compression_type=zstd', 'compressed'),
    'sub-zstd': ('compression_type=zstd,extended_l2=on', 'compressed'),
    'snapshots': ('', 'snapshots'),
    'data': ('', 'data'),
    'data-raw': ('data_file_raw=on', 'data'),
    'data-sub': ('extended_l2=on', 'data'),
    'refcount1': ('refcount_bits=1', ''),
    'refcount2': ('refcount_bits=2,cluster_size=4k', ''),
    'refcount8': ('refcount_bits=8', 'snapshots'),
    'refcount64': ('refcount_bits=64,cluster_size=4k', 'snapshots'),
    'refcount64-512': ('refcount_bits=64,cluster_size=512', ''),
    'prealloc-metadata': ('preallocation=metadata', ''),
    'prealloc-full': ('preallocation=full,cluster_size=4k', ''),
}


def prepared(path, name):
    """An image as qemu-img makes it, its content, and that of its snapshots."""
    opts, more = SHAPES[name]
    rnd = random.Random(name)
    below = rnd.randbytes(SIZE // 3) + bytes(1 << 20) + rnd.randbytes(4096) if more == 'backing' else None
    im = verify.Image(path, SIZE, opts, below, more == 'data')
    if more == 'compressed':
        cluster = 4096 if '4k' in name else 65536
        im.qemu_io(*(f'write -q -c -P {i % 250 + 1} {i * cluster} {cluster}' for i in range(0, SIZE // cluster, 2 if cluster > 4096 else 20)))
    snapshots = {}
    if more == 'snapshots':
        for i, snapshot in enumerate(('one', 'two')):
            im.qemu_io(f'write -q -P {i + 1} {i << 20} 3M', f'write -q -z {i + 4}M 1M', f'write -q -P {i + 9} {(i + 6 << 20) + 512} 5k')
            run('qemu-img', 'snapshot', '-c', snapshot, path)
            snapshots[snapshot] = im.snapshot(snapshot)
    return im, im.content(), snapshots


def loaded(s, export, base, requests, seed=1):
    model = verify.Model(verify.zones_for(SIZE, 4, odd=True), base)
    load = verify.Load(model, [s.connect(export) for _ in range(4)], seed=seed).run(requests)
    assert not load.failed, load.failed[:4]
    data = load.handles[0].pread(SIZE, 0)
    assert not model.check(data)
    for h in load.handles:
        h.shutdown()
    return bytes(data)


def judged(im, data, snapshots):
    im.sound()
    got = im.content()
    assert got == data, f'content differs from {next(i for i in range(SIZE) if got[i] != data[i]):#x} on'
    for name, was in snapshots.items():
        assert im.snapshot(name) == was, f'snapshot {name} has changed'


def by_qemu(im, data, seed):
    """Scribbles with qemu-io; the content then."""
    rnd, data, ops = random.Random(seed), bytearray(data), []
    for i in range(20):
        n = rnd.choice((512, 4096, 9000, 65536, 300000))
        at, fill = rnd.randrange(SIZE - n), rnd.randrange(256)
        ops.append(f'write -q -P {fill} {at} {n}' if fill else f'write -q -z {at} {n}')
        data[at:at + n] = bytes([fill]) * n
    im.qemu_io(*ops)
    return bytes(data)


@pytest.mark.parametrize('name', SHAPES)
def test_host(name, tmp):
    im, base, snapshots = prepared(f'{tmp}/x', name)
    discard = 'ignore' if list(SHAPES).index(name) & 1 else 'unmap'  # what is freed keeps its content, or is zero
    with Host(*im.host_words(discard=discard)) as s:
        data = loaded(s, 'v', base, MANY)
        s.quit()
    judged(im, data, snapshots)
    data = by_qemu(im, data, 5)
    with Host(*im.host_words()) as s:
        data = loaded(s, 'v', data, MANY // 4, seed=2)
        s.quit()
    judged(im, data, snapshots)


@pytest.mark.parametrize('part', range(3))
def test_firmware(part, tmp):
    """Many images on one storage VM."""
    images = {f'v{i}': prepared(f'{tmp}/v{i}', name) for i, name in enumerate(list(SHAPES)[part::3])}
    words, disks = lib.SERVER, []
    for export, (im, _, _) in images.items():
        words += im.firmware_words(export, disks, spare=24 << 20) + ' '
    with VM(words, disks, mem=96) as vm:
        contents = {export: loaded(vm, export, base, FEW) for export, (_, base, _) in images.items()}
        vm.quit()
    for export, (im, _, snapshots) in images.items():
        judged(im, contents[export], snapshots)


@pytest.mark.parametrize('opts', ['cluster_size=4k,refcount_bits=64', 'extended_l2=on'])
def test_wide(opts, tmp):
    """A TiB, written here and there: more tables than the cache holds, and refcounts that grow."""
    im = verify.Image(f'{tmp}/x', 1 << 40, opts)
    model = verify.Model(verify.zones_for(im.size, 4))
    with Host(*im.host_words(more=',l2-cache-size=256k')) as s:
        load = verify.Load(model, [s.connect('v') for _ in range(4)], lengths=(1, 8, 16)).run(MANY)
        assert not load.failed, load.failed[:4]
        assert not model.check_touched(load.handles[0])
        for h in load.handles:
            h.shutdown()
        s.quit()
    im.sound()
    with verify.Peer(*im.host_words()) as s:
        assert not model.check_touched(s.connect('v'))


@pytest.mark.parametrize('opts', ['', 'extended_l2=on,cluster_size=16k', 'compat=0.10,cluster_size=4k', 'lazy_refcounts=on,refcount_bits=64'])
def test_created_by_us_written_by_both(opts, tmp):
    run(HOST, 'create', '-q', '-f', 'qcow2', *(['-o', opts] if opts else []), f'{tmp}/x', str(SIZE))
    im = verify.Image(f'{tmp}/x', SIZE, made=True)
    data = by_qemu(im, bytes(SIZE), 1)
    with Host(*im.host_words()) as s:
        data = loaded(s, 'v', data, MANY // 2)
        s.quit()
    judged(im, by_qemu(im, data, 2), {})


def test_the_load_accepts_the_peer(tmp):
    """qemu-storage-daemon in our place: neither load nor model ask for too much."""
    im, base, _ = prepared(f'{tmp}/x', 'backing')
    with verify.Peer(*im.host_words()) as s:
        data = loaded(s, 'v', base, MANY)
        s.quit()
    judged(im, data, {})


def test_the_model_sees_a_lost_sector(tmp):
    """The proof that these tests can fail: a sector as it was before, one at another's place, half a sector."""
    im, base, _ = prepared(f'{tmp}/x', 'backing')
    model = verify.Model(verify.zones_for(SIZE, 4), base)
    with Host(*im.host_words()) as s:
        load = verify.Load(model, [s.connect('v') for _ in range(4)], mix={'write': 1}).run(600)
        data = bytes(load.handles[0].pread(SIZE, 0))
        assert not model.check(data)
        last = max(model.requests.values(), key=lambda r: (r.count == 128, r.seq))
        at = last.zone.offset(last.first)
        for bad in (base[at:at + 512], data[at + 512:at + 1024], data[at:at + 256] + bytes(256), bytes(512)):
            assert model.check(data[:at] + bad + data[at + 512:])


# ---- A full disk below ----

def fill(h, model, zone, start=0):
    """Writes whole clusters until one fails: how many did not."""
    size = 128
    for i in range(start, zone.units // size):
        r = model.begin('write', zone, i * size, size)
        try:
            h.pwrite(model.payload(r), zone.offset(i * size))
            model.end(r)
        except lib.nbd.Error as e:
            assert e.errno == 'ENOSPC', e
            return i
    raise AssertionError('the disk was never full')


def write_at(h, model, cluster):
    r = model.begin('write', model.zones[0], cluster * 128, 128)
    h.pwrite(model.payload(r), cluster << 16)
    model.end(r)


def full_then_free(s, trim, make_room):
    """ENOSPC to the writer; mapped data can still be read and written; after a trim (if that can free any), and with more space, it goes on."""
    model = verify.Model([verify.Zone(0, SIZE)])
    z = model.zones[0]
    h = s.connect('v')
    n = fill(h, model, z)
    assert n > 4
    write_at(h, model, 0)
    if trim:
        gone = model.begin('trim', z, 128, 3 * 128)
        h.trim(3 << 16, 1 << 16)
        model.end(gone)
        h.flush()
        write_at(h, model, n)
        write_at(h, model, n + 1)
        fill(h, model, z, n + 2)
    make_room()
    end = time.time() + 20
    while True:
        try:
            write_at(h, model, n + 8)
            break
        except lib.nbd.Error:
            assert time.time() < end, f'waited 20 s to go on with more space: {s.console()[-500:]}'
            time.sleep(.1)
    load = verify.Load(model, [s.connect('v') for _ in range(4)], mix={'write': 8, 'read': 2, 'trim': 1, 'flush': 1}).run(300)
    assert not load.failed, load.failed[:4]
    h.shutdown()
    for c in load.handles:
        c.shutdown()
    return model


def test_full_disk_firmware(tmp):
    im = verify.Image(f'{tmp}/x', SIZE)
    os.truncate(im.path, 4 << 20)
    with VM(lib.SERVER + '--blockdev driver=virtio-blk,node-name=d,serial=d0,discard=unmap --blockdev driver=qcow2,node-name=v,file=d,discard=unmap '
            '--export type=nbd,id=v,node-name=v,name=v,writable=on', [im.path]) as vm:
        def grow():
            assert 'return' in vm.qemu()('block_resize', node_name='f0', size=16 << 20)
        model = full_then_free(vm, True, grow)
        vm.quit()
    im.sound()
    assert not model.check(im.content())


class SmallFolder:
    """A tmpfs of a few MiB, in a mount namespace that a sleeping process keeps."""

    def __init__(self, path, size):
        os.mkdir(path)
        self.path = path
        self.proc = subprocess.Popen(['unshare', '-rm', 'sh', '-c', f'mount -t tmpfs -o size={size} none {path} && echo there && exec sleep 600'],
                                     stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        if self.proc.stdout.readline() != 'there\n':
            self.close()
            pytest.skip('no namespaces here')
        self.enter = ['nsenter', '-t', str(self.proc.pid), '-U', '-m', '--preserve-credentials']

    def run(self, *words):
        return run(*self.enter, *words)

    def program(self, path, words):
        """A script that is `words`, in there."""
        with open(path, 'w') as f:
            f.write('#!/bin/sh\nexec ' + ' '.join(self.enter) + f' {words} "$@"\n')
        os.chmod(path, 0o700)
        return path

    def close(self):
        self.proc.kill()
        self.proc.wait()


def test_full_disk_host(tmp):
    small = SmallFolder(f'{tmp}/small', '4m')
    try:
        im = verify.Image(f'{tmp}/x', SIZE)
        small.run('cp', im.path, f'{small.path}/x')
        small.run('dd', 'if=/dev/zero', f'of={small.path}/ballast', 'bs=1M', 'count=1', 'status=none')
        im.path = f'{small.path}/x'
        with Host(*im.host_words(), program=small.program(f'{tmp}/ours', HOST)) as s:
            def grow():
                small.run('rm', f'{small.path}/ballast')
                small.run('mount', '-o', 'remount,size=30m', small.path)
            model = full_then_free(s, False, grow)
            s.quit()
        small.run('cp', im.path, f'{tmp}/x')
        im.path = f'{tmp}/x'
        im.sound()
        assert not model.check(im.content())
    finally:
        small.close()


@pytest.mark.parametrize('opts', ['', 'cluster_size=4k', 'cluster_size=4k,lazy_refcounts=on'])
def test_full_disk_is_the_writers(tmp, opts):
    """Each write that succeeded can be flushed: also its L2 table has its place when there is none left."""
    small, size, step = SmallFolder(f'{tmp}/small', '6m'), 64 << 20, 1 << 16
    try:
        im = verify.Image(f'{tmp}/x', size, opts)
        small.run('cp', im.path, f'{small.path}/x')
        im.path = f'{small.path}/x'
        order, kept, refused = random.Random(1).sample(range(size // step), 300), {}, set()
        with Host(*im.host_words(), program=small.program(f'{tmp}/ours', HOST)) as s:
            h = s.connect('v')
            for n, i in enumerate(order):
                try:
                    h.pwrite(n.to_bytes(4, 'big') * (step // 4), i * step)
                    kept[i] = n
                except lib.nbd.Error as e:
                    refused.add(e.errno)
            h.flush()
            h.shutdown()
            s.quit()
        assert refused == {'ENOSPC'}
        small.run('cp', im.path, f'{tmp}/x')
        im.path = f'{tmp}/x'
        im.sound()
        content = im.content()
        assert not [i for i, n in kept.items() if content[i * step:(i + 1) * step] != n.to_bytes(4, 'big') * (step // 4)]
    finally:
        small.close()


def test_data_file_shrinks(tmp):
    """What is trimmed goes back from the data file, too, although its clusters keep their places."""
    im = verify.Image(f'{tmp}/x', SIZE, data=True)
    with Host(*im.host_words()) as s:
        h = s.connect('v')
        h.pwrite(b'd' * (4 << 20), 0)
        h.flush()
        before = os.stat(im.data).st_blocks
        h.trim(2 << 20, 1 << 20)
        assert h.pread(4 << 20, 0) == b'd' * (1 << 20) + bytes(2 << 20) + b'd' * (1 << 20)
        h.shutdown()
        s.quit()
    assert before - os.stat(im.data).st_blocks == 2 << 20 >> 9
    im.sound()


def test_data_file_too_short(tmp):
    """Its requests fail; nothing is wrong with the image, and it is as before when the data file is."""
    im = verify.Image(f'{tmp}/x', SIZE, data=True)
    with Host(*im.host_words()) as s:
        s.connect('v').pwrite(b'd' * (1 << 20), 0)
        s.quit()
    os.rename(im.data, f'{tmp}/right')
    os.close(os.open(im.data, os.O_CREAT | os.O_WRONLY))
    with Host(*im.host_words()) as s:
        h = s.connect('v')
        for off in (0, 4 << 20):
            with pytest.raises(lib.nbd.Error) as e:
                h.pwrite(bytes(4096), off)
            assert e.value.errno in ('EIO', 'ENOSPC', 'EINVAL')
        with pytest.raises(lib.nbd.Error):
            h.pread(4096, 0)
        s.quit()
    os.rename(f'{tmp}/right', im.data)
    im.sound()
    assert im.content()[:1 << 20] == b'd' * (1 << 20)
