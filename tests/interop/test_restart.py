# SPDX-License-Identifier: BSD-2-Clause
"""The storage VM dies and comes back, and clients notice nothing: with restart-safe=on every write that was completed is there, though nobody flushed.

SIGKILL under allocating load, in the midst of everything; what the layer below completed survives (the host keeps its page cache). Then a new
instance on the same disks, and again. The same without the option must lose something, or this test shows nothing.
"""
import os
import random
import sys
import time

import pytest

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
import lib  # noqa: E402
import verify  # noqa: E402
from lib import VM, Host, run  # noqa: E402

LONG = bool(os.environ.get('STRONGROOM_LONG'))
SIZE = 24 << 20
NO_FLUSH = {'write': 80, 'zero': 5, 'trim': 5, 'read': 10}
SHAPES = {'v3': '', 'sub': 'extended_l2=on', '4k': 'cluster_size=4k,refcount_bits=64', 'v2': 'compat=0.10', 'lazy': 'lazy_refcounts=on', 'data': 'data',
          'snapshot': 'snapshot'}


def start(form, im, option):
    export = f'writable=on,{option}' if option else 'writable=on'
    if form == 'host':
        return Host(*im.host_words(export=export))
    if form == 'peer':
        return verify.Peer(*im.host_words(export=export))
    disks = []
    return VM(lib.SERVER + im.firmware_words('v', disks, export=export), disks)


def image(tmp, shape):
    opts = SHAPES[shape]
    im = verify.Image(f'{tmp}/x', SIZE, '' if opts in ('data', 'snapshot') else opts, data=opts == 'data')
    if opts == 'snapshot':
        im.qemu_io('write -q -P 3 0 8M')
        run('qemu-img', 'snapshot', '-c', 'one', im.path)
    base = im.content()
    for f in filter(None, (im.path, im.data)):
        os.truncate(f, 64 << 20)
    return im, base


def killed(form, im, base, option, lives, seed, seconds=.6):
    """That many instances are killed under load; each has to have what the ones before completed. Returns what was found wrong."""
    model = verify.Model(verify.zones_for(SIZE, 4), base)
    rnd = random.Random(seed)
    for life in range(lives):
        with start(form, im, option) as s:
            hs = [s.connect('v') for _ in range(4)]
            faults = model.check(hs[0].pread(SIZE, 0))
            if faults:
                return faults
            end = time.time() + rnd.uniform(.1, seconds)
            load = verify.Load(model, hs, mix=NO_FLUSH, seed=seed * 100 + life).run(until=lambda: time.time() > end and (s.kill() or True))
            assert load.done and not load.failed, load.failed[:4]
        # The host form writes its dirty bit down, and a repair takes it away: else all that is written must be consistent.
        v = im.check()
        if v['corruptions'] and 'lazy' not in im.opts:
            return [v['text']]
    with start(form, im, option) as s:
        h = s.connect('v')
        faults = model.check(h.pread(SIZE, 0))
        h.shutdown()
        s.quit()
    im.sound(leaks=True)
    return faults


@pytest.mark.parametrize('shape', SHAPES)
@pytest.mark.parametrize('form', ['host', 'firmware'])
def test_completed_writes_survive(form, shape, tmp):
    if form == 'firmware' and shape not in ('v3', 'sub', 'data') and not LONG:
        pytest.skip('in the long run')
    im, base = image(tmp, shape)
    faults = killed(form, im, base, 'restart-safe=on', 20 if LONG else 3, 1)
    assert not faults, faults


@pytest.mark.parametrize('form', ['host', 'firmware'])
def test_without_the_option_writes_are_lost(form, tmp):
    for seed in range(3):
        im, base = image(tmp, 'v3')
        if killed(form, im, base, 'restart-safe=off', 2, seed):
            return
        os.unlink(im.path)
    raise AssertionError('nothing was lost without restart-safe=on: this test cannot fail')


def test_the_peer(tmp):
    """qemu-storage-daemon flushes each write with writethrough=on, and loses some without."""
    im, base = image(tmp, 'v3')
    assert not killed('peer', im, base, 'writethrough=on', 2, 1)
    im, base = image(tmp, 'v3')
    assert killed('peer', im, base, '', 2, 1)
