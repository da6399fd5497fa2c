# SPDX-License-Identifier: BSD-2-Clause
"""Stock clients against the firmware, with verification of what they moved."""
import random

import pytest

import lib
from lib import VM, run

SIZE = 64 << 20
WORDS = ('--blockdev driver=virtio-blk,node-name=disk0,serial=d0 ' + lib.SERVER +
         '--export type=nbd,id=e,node-name=disk0,name=vol,writable=on')


@pytest.fixture(scope='module', params=['q35', 'virt-gic3'])
def vm(request):
    d = lib.scratch()
    lib.pattern_image(f'{d}/disk', SIZE)
    with VM(WORDS, [f'{d}/disk'], machine=request.param) as v:
        v.disk = f'{d}/disk'
        v.tmp = d
        yield v
        v.quit()


def test_nbdinfo(vm):
    out = run('nbdinfo', vm.uri('vol')).stdout
    assert f'export-size: {SIZE}' in out
    for word in ('can_flush: true', 'can_fua: true', 'can_trim: true', 'can_zero: true', 'can_multi_conn: true',
                 'can_cache: true', 'can_fast_zero: true', 'can_df: true', 'base:allocation', 'block_size_minimum'):
        assert word in out, out
    assert '"vol"' in run('nbdinfo', '--list', vm.uri()).stdout or 'export="vol"' in run('nbdinfo', '--list', vm.uri()).stdout
    assert run('nbdinfo', '--map', vm.uri('vol')).stdout


def test_nbdcopy_out_and_in(vm):
    run('nbdcopy', vm.uri('vol'), f'{vm.tmp}/out')
    run('cmp', vm.disk, f'{vm.tmp}/out')
    with open(f'{vm.tmp}/in', 'wb') as f:
        f.write(random.Random(3).randbytes(SIZE))
    run('nbdcopy', '--flush', f'{vm.tmp}/in', vm.uri('vol'))
    run('cmp', f'{vm.tmp}/in', vm.disk)


def test_qemu_io(vm):
    for ops in (['write -P 5 1000 70000', 'read -P 5 1000 70000'], ['write -z 1M 2M', 'read -P 0 1M 2M'],
                ['write -z -u 3M 1M', 'read -P 0 3M 1M'], ['write -f -P 6 511 3', 'read -P 6 511 3'],
                ['discard 8M 1M', 'flush', 'read 8M 1M'], ['write -P 1 0 32M', 'read -P 1 0 32M'],
                ['aio_write -P 2 0 1M', 'aio_write -P 3 1M 1M', 'aio_flush', 'read -P 3 1M 1M', 'read -P 2 0 1M']):
        out = run('qemu-io', '-f', 'raw', *sum((['-c', op] for op in ops), []), vm.uri('vol')).stdout
        assert 'failed' not in out and 'error' not in out.lower(), out


@pytest.mark.parametrize('bs,qd', [('4k', 32), ('128k', 8), ('512', 4)])
def test_fio_verifies(vm, bs, qd):
    run('fio', '--name=v', '--ioengine=nbd', f'--uri={vm.uri("vol")}', '--rw=randwrite', f'--bs={bs}', f'--iodepth={qd}',
        '--size=16M', '--io_size=8M', '--verify=crc32c', '--do_verify=1', '--verify_fatal=1', '--randrepeat=1', cwd=vm.tmp)


def test_four_connections_at_once(vm):
    hs = [vm.connect('vol') for _ in range(4)]
    want = {}
    cookies = []
    for i in range(32 * 4):
        data = random.Random(i).randbytes(4096)
        want[i * 8192] = data
        cookies.append((hs[i % 4], hs[i % 4].aio_pwrite(lib.nbd.Buffer.from_bytearray(bytearray(data)), i * 8192)))
    for h, c in cookies:
        while not h.aio_command_completed(c):
            assert h.poll(30000), 'waited 30 s for a write'
    hs[0].flush()
    for off, data in want.items():
        assert bytes(hs[1].pread(4096, off)) == data
