# SPDX-License-Identifier: BSD-2-Clause
"""Images that stock tools wrote, in every shape that changes the bytes on the disk, read bit-exact by both forms.

The oracle is qemu-img: `convert` to raw gives the content sum; ours comes over NBD. The firmware boots once for many images.
"""
import hashlib
import os
import random

import pytest

import lib
from lib import Host, VM, run

SIZE = 6 << 20

# name: options of `qemu-img create`
SHAPES = {}
for cs in ('512', '1k', '4k', '64k', '256k', '1M', '2M'):
    SHAPES[f'v3-{cs}'] = f'cluster_size={cs}'
    if cs in ('512', '4k', '64k', '2M'):
        SHAPES[f'v2-{cs}'] = f'compat=0.10,cluster_size={cs}'
        SHAPES[f'zstd-{cs}'] = f'compression_type=zstd,cluster_size={cs}'
    if cs in ('64k', '256k', '2M'):
        SHAPES[f'sub-{cs}'] = f'extended_l2=on,cluster_size={cs}'
        SHAPES[f'sub-zstd-{cs}'] = f'extended_l2=on,compression_type=zstd,cluster_size={cs}'
for bits in (1, 2, 4, 8, 32, 64):
    SHAPES[f'refcount{bits}'] = f'refcount_bits={bits}'
for pre in ('metadata', 'falloc', 'full'):
    SHAPES[f'prealloc-{pre}'] = f'preallocation={pre}'
SHAPES['sub-16k'] = 'extended_l2=on,cluster_size=16k'
SHAPES['lazy'] = 'lazy_refcounts=on'


def scribble(path, seed, compressed=True, snapshots=False):
    """Random writes, zeroes, discards and compressed clusters by qemu-io."""
    rnd = random.Random(seed)
    ops = []
    for i in range(40):
        at, n = rnd.randrange(0, SIZE - 1024), rnd.choice((512, 4096, 9000, 65536, 300000))
        n = min(n, SIZE - at)
        kind = rnd.choice('wwwwzud')
        ops += ['-c', {'w': f'write -P {rnd.randrange(1, 255)} {at} {n}', 'z': f'write -z {at} {n}', 'u': f'write -z -u {at} {n}',
                       'd': f'discard {at} {n}'}[kind]]
    run('qemu-io', '-f', 'qcow2', *ops, path)
    if compressed:
        info = run('qemu-img', 'info', '--output=json', path).stdout
        import json
        cluster = json.loads(info)['cluster-size']
        for i in range(4):
            at = rnd.randrange(0, SIZE // cluster) * cluster
            n = min(cluster, SIZE - at)
            run('qemu-io', '-f', 'qcow2', '-c', f'discard {at} {n}', '-c', f'write -c -P {i + 1} {at} {n}', path, check=False)
    if snapshots:
        run('qemu-img', 'snapshot', '-c', 'one', path)
        run('qemu-io', '-f', 'qcow2', '-c', 'write -P 99 100000 200000', path)
        run('qemu-img', 'snapshot', '-c', 'two', path)
        run('qemu-io', '-f', 'qcow2', '-c', 'write -P 98 150000 5000', path)


def content(source, fmt):
    """sha256 of what qemu-img reads."""
    out = source.replace('/', '_')[-40:] + '.sum'
    d = lib.scratch()
    run('qemu-img', 'convert', '-U', '-f', fmt, '-O', 'raw', source, f'{d}/{out}')
    with open(f'{d}/{out}', 'rb') as f:
        s = hashlib.sha256(f.read()).hexdigest()
    os.unlink(f'{d}/{out}')
    os.rmdir(d)
    return s


def served(h):
    """sha256 of what we serve, read in odd pieces."""
    s, at, size, rnd = hashlib.sha256(), 0, h.get_size(), random.Random(5)
    while at < size:
        n = min(rnd.choice((512, 4096, 65536, 1 << 20)), size - at)
        s.update(h.pread(n, at))
        at += n
    return s.hexdigest()


@pytest.fixture(scope='module')
def images():
    d = lib.scratch()
    made = {}
    for i, (name, opts) in enumerate(SHAPES.items()):
        p = f'{d}/{name}'
        run('qemu-img', 'create', '-q', '-f', 'qcow2', '-o', opts, p, str(SIZE))
        scribble(p, i, compressed='v2-512' != name, snapshots=name in ('v2-64k', 'v3-64k', 'v3-512'))
        made[name] = (p, content(p, 'qcow2'))
    yield made
    run('rm', '-rf', d)


def test_host_form_reads_all(images):
    words = []
    for name, (p, _) in images.items():
        words += ['--blockdev', f'driver=qcow2,node-name={name},read-only=on,file.driver=file,file.filename={p}',
                  '--export', f'type=nbd,id={name},node-name={name},name={name}']
    with Host(*words) as s:
        bad = [name for name, (_, want) in images.items() if served(s.connect(name)) != want]
        assert not bad
        s.quit()


def test_firmware_reads_all(images):
    names = list(images)
    for at in range(0, len(names), 20):
        some = names[at:at + 20]
        words = lib.SERVER
        for i, name in enumerate(some):
            run('truncate', '-s', '%512', images[name][0])
            words += (f'--blockdev driver=qcow2,node-name=v{i},read-only=on,file.driver=virtio-blk,file.serial=d{i} '
                      f'--export type=nbd,id=v{i},node-name=v{i},name=v{i} ')
        with VM(words, [images[n][0] for n in some], mem=64) as vm:
            bad = [n for i, n in enumerate(some) if served(vm.connect(f'v{i}')) != images[n][1]]
            assert not bad
            vm.quit()


def test_map_agrees(images):
    """Zero and allocated ranges as NBD block status, against qemu-img map of the image."""
    import json
    for name in ('v3-64k', 'sub-64k', 'v2-4k', 'zstd-64k'):
        p = images[name][0]
        with Host('--blockdev', f'driver=qcow2,node-name=v,read-only=on,file.driver=file,file.filename={p}',
                  '--export', 'type=nbd,id=v,node-name=v,name=v') as s:
            ours = json.loads(run('qemu-img', 'map', '-f', 'raw', '--output=json', s.uri('v')).stdout)
        theirs = json.loads(run('qemu-img', 'map', '-U', '-f', 'qcow2', '--output=json', p).stdout)

        def zero(m):
            spans = []
            for e in m:
                if spans and spans[-1][2] == e['zero'] and spans[-1][0] + spans[-1][1] == e['start']:
                    spans[-1][1] += e['length']
                else:
                    spans.append([e['start'], e['length'], e['zero']])
            return spans
        assert zero(ours) == zero(theirs), name


@pytest.mark.parametrize('form', ['host', 'firmware'])
def test_external_data_file(form, tmp):
    for raw in ('off', 'on'):
        p = f'{tmp}/x{raw}'
        run('qemu-img', 'create', '-q', '-f', 'qcow2', '-o', f'data_file={p}.data,data_file_raw={raw}', p, str(SIZE))
        scribble(p, 9, compressed=False)
        want = content(p, 'qcow2')
        run('truncate', '-s', '%512', p, f'{p}.data')
        if form == 'host':
            node = f'driver=qcow2,node-name=v,read-only=on,file.driver=file,file.filename={p}'
            s = Host('--blockdev', node, '--export', 'type=nbd,id=v,node-name=v,name=v')
        else:
            s = VM('--blockdev driver=qcow2,node-name=v,read-only=on,file.driver=virtio-blk,file.serial=d0,data-file.driver=virtio-blk,'
                   'data-file.serial=d1 ' + lib.SERVER + '--export type=nbd,id=v,node-name=v,name=v', [p, f'{p}.data'])
        with s:
            assert served(s.connect('v')) == want


def chain(tmp, depth, name):
    """depth images above a base, each with a few writes; name(i) is what the header calls the one below."""
    run('qemu-img', 'create', '-q', '-f', 'qcow2', f'{tmp}/0', str(SIZE - (1 << 20)))
    run('qemu-io', '-f', 'qcow2', '-c', 'write -P 77 0 5M', f'{tmp}/0')
    rnd = random.Random(depth)
    for i in range(1, depth + 1):
        run('qemu-img', 'create', '-q', '-f', 'qcow2', '-b', f'{tmp}/{i - 1}', '-F', 'qcow2', f'{tmp}/{i}', str(SIZE))
        ops = sum((['-c', f'write -P {rnd.randrange(1, 250)} {rnd.randrange(SIZE - 70000)} {rnd.choice((512, 3000, 65536))}']
                   for _ in range(3)), ['-c', f'write -z {rnd.randrange(SIZE >> 17) << 16} 65536'])
        run('qemu-io', '-f', 'qcow2', *ops, f'{tmp}/{i}')
    want = content(f'{tmp}/{depth}', 'qcow2')
    for i in range(1, depth + 1):
        run('qemu-img', 'rebase', '-u', '-f', 'qcow2', '-F', 'qcow2', '-b', name(i - 1), f'{tmp}/{i}')
    return want


@pytest.mark.parametrize('depth', [1, 3, 100])
def test_backing_by_header_host(depth, tmp):
    want = chain(tmp, depth, lambda i: str(i))
    with Host('--blockdev', f'driver=qcow2,node-name=v,read-only=on,file.driver=file,file.filename={tmp}/{depth}',
              '--export', 'type=nbd,id=v,node-name=v,name=v') as s:
        assert served(s.connect('v')) == want


@pytest.mark.parametrize('depth', [1, 3, 100])
def test_backing_by_header_firmware(depth, tmp):
    want = chain(tmp, depth, lambda i: f'serial:b{i}')
    run('truncate', '-s', '%512', *(f'{tmp}/{i}' for i in range(depth + 1)))
    extra = []
    for i in range(depth + 1):  # eight functions to a slot
        extra += ['-blockdev', f'driver=file,node-name=b{i},filename={tmp}/{i},read-only=on', '-device',
                  f'virtio-blk-pci,drive=b{i},serial=b{i},addr={8 + i // 8:x}.{i % 8},multifunction=on']
    with VM(f'--blockdev driver=qcow2,node-name=v,read-only=on,file.driver=virtio-blk,file.serial=b{depth} ' + lib.SERVER +
            '--export type=nbd,id=v,node-name=v,name=v', [], extra=extra, mem=128) as vm:
        assert served(vm.connect('v')) == want


@pytest.mark.parametrize('depth', [1, 3])
def test_backing_by_option(depth, tmp):
    want = chain(tmp, depth, lambda i: f'nowhere:{i}')
    words = ['--blockdev', f'driver=qcow2,node-name=n0,read-only=on,file.driver=file,file.filename={tmp}/0']
    for i in range(1, depth + 1):
        words += ['--blockdev', f'driver=qcow2,node-name=n{i},read-only=on,file.driver=file,file.filename={tmp}/{i},backing=n{i - 1}']
    with Host(*words, '--export', f'type=nbd,id=v,node-name=n{depth},name=v') as s:
        assert served(s.connect('v')) == want


DAMAGE = {
    'magic': lambda b: b[:0] + b'XXXX' + b[4:],
    'version': lambda b: b[:7] + b'\x09' + b[8:],
    'cluster bits': lambda b: b[:20] + (63).to_bytes(4, 'big') + b[24:],
    'l1 size': lambda b: b[:36] + (0xffffffff).to_bytes(4, 'big') + b[40:],
    'l1 offset': lambda b: b[:40] + (1 << 62).to_bytes(8, 'big') + b[48:],
    'l1 unaligned': lambda b: b[:40] + (196609).to_bytes(8, 'big') + b[48:],
    'refcount table': lambda b: b[:48] + (1 << 60).to_bytes(8, 'big') + b[56:],
    'refcount order': lambda b: b[:96] + (9).to_bytes(4, 'big') + b[100:],
    'header length': lambda b: b[:100] + (3).to_bytes(4, 'big') + b[104:],
    'extension length': lambda b: b[:116] + (0x7fffffff).to_bytes(4, 'big') + b[120:],
    'size': lambda b: b[:24] + (1 << 63).to_bytes(8, 'big') + b[32:],
    'encrypted': lambda b: b[:32] + (1).to_bytes(4, 'big') + b[36:],
    'unknown feature': lambda b: b[:72] + (1 << 17).to_bytes(8, 'big') + b[80:],
    'truncated': lambda b: b[:100],
}


@pytest.mark.parametrize('what', DAMAGE)
def test_damaged_header_is_refused(what, tmp):
    run('qemu-img', 'create', '-q', '-f', 'qcow2', f'{tmp}/x', str(SIZE))
    with open(f'{tmp}/x', 'rb') as f:
        b = f.read()
    with open(f'{tmp}/x', 'wb') as f:
        f.write(DAMAGE[what](b))
    with Host('--blockdev', f'driver=qcow2,node-name=v,read-only=on,file.driver=file,file.filename={tmp}/x', wait=False) as s:
        assert s.status() == 3, s.console()
        assert 'error: --blockdev' in s.console()


def test_damaged_tables_give_eio_there_and_data_elsewhere(tmp):
    run('qemu-img', 'create', '-q', '-f', 'qcow2', f'{tmp}/x', '1G')
    run('qemu-io', '-f', 'qcow2', '-c', 'write -P 7 0 64k', '-c', 'write -P 8 600M 64k', '-c', 'write -P 9 64k 64k', f'{tmp}/x')
    with open(f'{tmp}/x', 'r+b') as f:
        f.seek(40)
        l1 = int.from_bytes(f.read(8), 'big')
        f.seek(l1)
        l2 = int.from_bytes(f.read(8), 'big') & 0x00fffffffffffe00
        f.seek(l2)
        f.write((0x8000000000000000 | 1 << 50).to_bytes(8, 'big'))  # a data cluster far behind the end
        f.seek(l1 + 8)
        f.write((0x8000000000000000 | 0x1234567 << 9 | 0).to_bytes(8, 'big'))  # an L2 table that is not aligned
    with Host('--blockdev', f'driver=qcow2,node-name=v,read-only=on,file.driver=file,file.filename={tmp}/x',
              '--export', 'type=nbd,id=v,node-name=v,name=v') as s:
        h = s.connect('v')
        for at in (0, 600 << 20):
            with pytest.raises(lib.nbd.Error) as e:
                h.pread(4096, at)
            assert e.value.errno == 'EIO'
        assert bytes(h.pread(65536, 65536)) == b'\x09' * 65536
