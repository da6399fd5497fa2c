# SPDX-License-Identifier: BSD-2-Clause
"""`strongroom create` against `qemu-img create`: the same words make the same image, or fail with the same sentence.

Each case runs both, in a folder of its own; what the two say must be equal to the letter. Of the images everything that
qemu-img info tells must be equal but the space on the disk; ours must be in order, read the same and map the same.
"""
import concurrent.futures
import json
import os
import subprocess

from lib import HOST, Host, run

SIZES = ['1M', '0', '512', '1', '1000000', '3145728', '5G', '1.5M', '0x12345600', '100k']
CLUSTERS = ['512', '1k', '2k', '4096', '8k', '16k', '32k', '64k', '128k', '256k', '512k', '1024k', '2M']


def cases():
    """Options (o=...), other words, size."""
    n = 0

    def size():
        nonlocal n
        n += 1
        return SIZES[n % len(SIZES)]
    for c in CLUSTERS:
        for compat in ('0.10', '1.1', 'v2', 'v3'):
            if c in ('512', '64k', '2M') or compat in ('0.10', 'v3'):
                yield f'cluster_size={c},compat={compat}', [], size()
        if CLUSTERS.index(c) >= 5:
            yield f'extended_l2=on,cluster_size={c}', [], size()
    for bits in (1, 2, 4, 8, 16, 32, 64):
        for c in ('512', '64k', '2M'):
            yield f'refcount_bits={bits},cluster_size={c}', [], size() if bits > 4 else '3M'
    for o in ('compression_type=zlib', 'compression_type=zstd', 'compression_type=zstd,extended_l2=on', 'lazy_refcounts=on',
              'lazy_refcounts=off,compat=0.10', 'lazy_refcounts=yes,compression_type=zstd,cluster_size=4k', 'nocow=on', 'nocow=off',
              'size=7M', 'preallocation=off', ''):
        yield o, [], None if 'size=7M' in o else size()
    for pre in ('metadata', 'falloc', 'full'):
        for c, s in (('512', '100000'), ('4k', '3M'), ('64k', '8000000'), ('64k', '0'), ('2M', '5M')):
            yield f'preallocation={pre},cluster_size={c}', [], s
        for more in ('compat=0.10', 'extended_l2=on', 'refcount_bits=1,cluster_size=512', 'refcount_bits=64,cluster_size=512',
                     'refcount_bits=4'):
            yield f'preallocation={pre},{more}', [], '2000000'
        yield f'preallocation={pre},extended_l2=on', ['-b', 'base.qcow2', '-F', 'qcow2'], None
        yield f'preallocation={pre},data_file=d,lazy_refcounts=on', [], '1M'
        yield f'preallocation={pre},data_file=d,data_file_raw=on,cluster_size=1k', [], '1000k'
    for o in ('', 'data_file_raw=off', 'data_file_raw=on', 'data_file_raw=on,extended_l2=on', 'cluster_size=512', 'compression_type=zstd',
              'data_file_raw=on,cluster_size=512', 'extended_l2=on,refcount_bits=8'):
        for s in ('1M', '333333'):
            yield ('data_file=d,' + o).rstrip(','), [], s
    yield 'data_file=d', ['-b', 'base.raw', '-F', 'raw'], None
    for fmt in ('raw', 'qcow2'):
        for o in ('', 'compat=0.10', 'cluster_size=512', 'extended_l2=on,compression_type=zstd', 'refcount_bits=64,cluster_size=4k'):
            yield o, ['-b', f'base.{fmt}', '-F', fmt], None
            yield o, ['-b', f'./base.{fmt}', '-F', fmt], '3M'
        yield f'backing_file=base.{fmt},backing_fmt={fmt}', [], '100k'
        yield f'backing_file=nowhere.{fmt},backing_fmt={fmt}', ['-u'], '100k'
    yield 'backing_file=a,,b,backing_fmt=raw', ['-u'], '1M'
    yield 'backing_file=nowhere', ['-b', 'base.raw', '-F', 'raw'], '1M'
    yield 'cluster_size=512,cluster_size=1k', ['-o', 'cluster_size=2k'], '1M'
    for o in ('', 'cluster_size=2M', 'extended_l2=on,refcount_bits=64', 'compat=0.10', 'data_file=d'):
        yield o, [], '64T'
    yield 'cluster_size=512', [], '64G'


WRONG = [
    ('compat=foo', [], '1M'), ('compat=', [], '1M'), ('compat=0.10,refcount_bits=8', [], '1M'), ('compat=0.10,lazy_refcounts=on', [], '1M'),
    ('compat=v2,extended_l2=on', [], '1M'), ('compat=0.10,compression_type=zstd', [], '1M'), ('compat=0.10,data_file=d', [], '1M'),
    ('extended_l2=on,cluster_size=8k', [], '1M'), ('refcount_bits=3', [], '1M'), ('refcount_bits=0', [], '1M'),
    ('refcount_bits=128', [], '1M'), ('refcount_bits=abc', [], '1M'), ('cluster_size=4M', [], '1M'), ('cluster_size=256', [], '1M'),
    ('cluster_size=65537', [], '1M'), ('cluster_size=abc', [], '1M'), ('cluster_size=0', [], '1M'), ('preallocation=foo', [], '1M'),
    ('compression_type=foo', [], '1M'), ('data_file_raw=on', [], '1M'), ('lazy_refcounts=maybe', [], '1M'), ('foo=1', [], '1M'),
    ('data_file=d,data_file_raw=on', ['-b', 'base.raw', '-F', 'raw'], '1M'),
    ('preallocation=metadata', ['-b', 'base.raw', '-F', 'raw'], '1M'), ('', ['-F', 'raw'], '1M'),
    ('', ['-b', 'base.raw', '-F', 'foo'], '1M'), ('', ['-b', 'nowhere', '-F', 'raw'], '1M'), ('', ['-b', 'base.raw', '-F', 'qcow2'], None),
    ('', ['-u', '-b', 'nowhere', '-F', 'raw'], None), ('', ['-u', '-b', 'nowhere'], '1M'), ('', ['-b', 'x', '-F', 'raw'], '1M'),
    ('', ['-b', '', '-F', 'raw'], '1M'), ('size=1M', [], '2M'), ('size=abc', [], None), ('', [], None), ('', [], '12z'), ('', [], 'abc'),
    ('data_file=/nowhere/d', [], '1M'), ('', [], '1E'), ('', [], '8E'), ('cluster_size=2M', [], '4E'), ('cluster_size=512', [], '1T'),
    ('', ['-f', 'foo'], '1M'), ('', ['-u', '-b', 'b' * 1024, '-F', 'raw'], '1M'),
    ('cluster_size=512', ['-u', '-b', 'b' * 500, '-F', 'raw'], '1M'),
    ('data_file=' + 'd' * 250 + ',cluster_size=512', ['-u', '-b', 'b' * 200, '-F', 'raw'], '1M'),
]


def words(case):
    o, more, size = case
    return ['create', '-f', 'qcow2', *(['-o', o] if o else []), *more, 'x', *([size] if size is not None else [])]


def said(program, case, cwd):
    """Status, and what was said with the program's name taken out."""
    p = subprocess.run([program, *words(case)], cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=60)
    name = os.path.basename(program)
    return p.returncode, p.stdout, p.stderr.replace(name + ':', 'X:').replace(f"'{name} ", "'X ")


def info(cwd):
    i = json.loads(run('qemu-img', 'info', '-U', '--output=json', 'x', cwd=cwd).stdout)
    i.pop('actual-size')
    return {k: v.replace(cwd, '') if isinstance(v, str) else v for k, v in i.items()}


def spans(cwd):
    """qemu-img map without places, and neighbours that say the same put together. Which parts of preallocated data are
    known to be zero is the file system's to say, page by page."""
    out = []
    for e in json.loads(run('qemu-img', 'map', '--output=json', 'x', cwd=cwd).stdout):
        what = [e['depth'], e['present'], e['data'], e['zero'] and not e['data']]
        if out and out[-1][1] == what:
            out[-1][0] += e['length']
        else:
            out.append([e['length'], what])
    return out


def check(cwd):
    return json.loads(run('qemu-img', 'check', '--output=json', 'x', cwd=cwd).stdout)


def same_image(a, b, allocated):
    assert info(a) == info(b)
    ours, theirs = check(a), check(b)
    for key in ('total-clusters', 'allocated-clusters'):
        assert ours.get(key) == theirs.get(key), key
    assert ours['image-end-offset'] <= theirs['image-end-offset'] + (2 << 20)
    assert spans(a) == spans(b)
    run('qemu-img', 'compare', '-f', 'qcow2', '-F', 'qcow2', 'x', f'{b}/x', cwd=a)
    for name in ('x', 'd'):
        if os.path.exists(f'{b}/{name}'):
            space = [os.stat(f'{d}/{name}').st_blocks for d in (a, b)]
            assert space[0] <= space[1] + 128, f'{name}: 512-byte blocks on the disk: {space}'
            if allocated and name == ('d' if os.path.exists(f'{b}/d') else 'x'):
                assert space[0] >= ours.get('total-clusters', 0) * info(a)['cluster-size'] // 512 - 8, f'{name}: {space}'
    if os.path.exists(f'{b}/d'):  # theirs may end with a whole cluster
        assert os.path.getsize(f'{a}/d') == info(a)['virtual-size'] <= os.path.getsize(f'{b}/d')


def use(d):
    """What QEMU allocates in an image of ours goes where our refcounts say that there is space."""
    size = info(d)['virtual-size']
    if size >= 1 << 20:
        run('qemu-io', '-f', 'qcow2', '-c', f'write -q -P 7 {size - 300000} 250000', '-c', 'write -q -P 8 5000 99000',
            '-c', f'read -q -P 7 {size - 300000} 250000', '-c', 'read -q -P 8 5000 99000', 'x', cwd=d)
        check(d)


def run_case(bases, top, i, case, wrong):
    dirs = [f'{top}/{i}-{who}' for who in 'ab']
    for d in dirs:
        os.mkdir(d)
        for b in bases:
            os.link(b, f'{d}/{os.path.basename(b)}')
    ours, theirs = [said(p, case, d) for p, d in zip((HOST, 'qemu-img'), dirs)]
    if len(str(case)) > 400:  # our sentences end somewhere
        ours, theirs = [(*s[:2], s[2][:400]) for s in (ours, theirs)]
    assert ours == theirs
    assert ours[0] == (1 if wrong else 0)
    if wrong:
        assert sorted(os.listdir(dirs[0])) == sorted(os.path.basename(b) for b in bases), 'a file was left behind'
        return
    for name in ('nowhere', 'nowhere.raw', 'nowhere.qcow2', 'a,b'):  # what was not looked at, so that it can be read
        for d in dirs:
            os.link(bases[name == 'nowhere.qcow2'], f'{d}/{name}')
    same_image(*dirs, 'falloc' in case[0] or 'full' in case[0])
    use(dirs[0])


def run_all(tmp, some, wrong):
    """Two at a time; all failures at once."""
    bases = [f'{tmp}/base.raw', f'{tmp}/base.qcow2']
    with open(bases[0], 'wb') as f:
        f.write(b'raw ' * 50000 + b'end')
    run('qemu-img', 'create', '-q', '-f', 'qcow2', bases[1], '1200000')
    run('qemu-io', '-c', 'write -q -P 9 70000 100000', bases[1])
    top = f'{tmp}/cases'
    os.mkdir(top)
    bad = []
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        jobs = {pool.submit(run_case, bases, top, i, c, wrong): c for i, c in enumerate(some)}
        for job in concurrent.futures.as_completed(jobs):
            if job.exception():
                bad.append(f'{words(jobs[job])}: {job.exception()}')
    assert not bad, f'{len(bad)} of {len(jobs)}:\n' + '\n'.join(bad)
    return top


def test_matrix(tmp):
    top = run_all(tmp, list(cases()), False)
    # The same images, written by us: what QEMU reads, and whether it finds them in order.
    some = [d for d in sorted(os.listdir(top)) if d.endswith('-a')]
    some = [d for d in some if info(f'{top}/{d}')['virtual-size'] >= 1 << 20][::2]
    options = []
    for d in some:
        data = f',data-file.driver=file,data-file.filename={top}/{d}/d' if os.path.exists(f'{top}/{d}/d') else ''
        options += ['--blockdev', f'driver=qcow2,node-name=n{d},file.driver=file,file.filename={top}/{d}/x{data}',
                    '--export', f'type=nbd,id=n{d},node-name=n{d},name={d},writable=on']
    with Host(*options) as s:
        for d in some:
            h = s.connect(d)
            assert h.get_size() == info(f'{top}/{d}')['virtual-size'], d
            h.pwrite(b'a' * 300000, h.get_size() - 300000)
            h.pwrite(b'b' * 1000, 77777)
        s.quit()
    for d in some:
        size = info(f'{top}/{d}')['virtual-size']
        run('qemu-io', '-f', 'qcow2', '-c', f'read -q -P 97 {size - 300000} 300000', '-c', 'read -q -P 98 77777 1000', 'x', cwd=f'{top}/{d}')
        check(f'{top}/{d}')


def test_wrong_words(tmp):
    run_all(tmp, WRONG, True)


def create(cwd, *words, status=0):
    p = subprocess.run([HOST, 'create', *words], cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=60)
    assert p.returncode == status, p.stdout
    return p.stdout


def test_words_that_are_ours(tmp):
    assert create(tmp, '-q', '-f', 'qcow2', 'x', '1M') == ''
    assert create(tmp, '-f', 'raw', 'r', '1000') == run('qemu-img', 'create', '-f', 'raw', 'r', '1000', cwd=tmp).stdout
    assert os.path.getsize(f'{tmp}/r') == 1024
    assert create(tmp, 'r', '1M') == "Formatting 'r', fmt=raw size=1048576\n"
    assert os.path.getsize(f'{tmp}/r') == 1 << 20
    for o in ('backing_file', 'cluster_size', 'compat', 'data_file_raw', 'nocow'):
        assert f'  {o} ' in create(tmp, '-f', 'qcow2', '-o', 'help')
    assert 'usage: strongroom create' in create(tmp, '--help')
    for words, sentence in ((['-f', 'raw', '-b', 'x', '-F', 'raw', 'y', '1M'], "y: Backing file not supported for file format 'raw'"),
                            (['-f', 'null-co', 'y', '1M'], "y: Format driver 'null-co' does not support image creation"),
                            (['-f', 'qcow2', '-o', 'data_file=y', 'y', '1M'], 'same filename as the data file'),
                            (['-f', 'qcow2', '-o', 'cluster_size', 'y', '1M'], "Expected '=' after parameter 'cluster_size'"),
                            (['-Z'], 'unrecognized option'), ([], 'Expecting image file name'), (['y', '1', '2'], 'Unexpected argument: 2'),
                            (['y', '9E'], 'Must be between 0 and 9223372036854775807'),
                            (['/nowhere/y', '1M'], "/nowhere/y: Could not create '/nowhere/y': No such file or directory")):
        assert sentence in create(tmp, *words, status=1)
    assert sorted(os.listdir(tmp)) == ['r', 'x']


def test_an_image_in_the_way(tmp):
    """It is kept when the words are wrong, and nothing of it is left when they are right."""
    run('qemu-img', 'create', '-q', '-f', 'qcow2', 'x', '8M', cwd=tmp)
    run('qemu-io', '-f', 'qcow2', '-c', 'write -q -P 5 0 8M', 'x', cwd=tmp)
    before = open(f'{tmp}/x', 'rb').read()
    create(tmp, '-f', 'qcow2', '-o', 'refcount_bits=3', 'x', '8M', status=1)
    assert open(f'{tmp}/x', 'rb').read() == before
    create(tmp, '-f', 'qcow2', '-o', 'preallocation=metadata', 'x', '8M')
    assert check(tmp)['allocated-clusters'] == 128
    run('qemu-io', '-f', 'qcow2', '-c', 'read -q -P 0 0 8M', 'x', cwd=tmp)


def test_a_full_disk(tmp):
    """What did not fit is taken away again."""
    p = run('sh', '-c', f'ulimit -f 1000; trap "" XFSZ; exec {HOST} create -f qcow2 -o preallocation=full x 8M',
            cwd=tmp, check=False)
    assert p.returncode == 1 and 'strongroom: x: Could not resize image: No space left on device' in p.stdout, p.stdout
    assert os.listdir(tmp) == []
