# SPDX-License-Identifier: BSD-2-Clause
"""What virtio devices can offer beside what every test has: packed rings, and the legacy interface over MMIO."""
import os

import pytest

import lib
from lib import VM
from verify import Load, Model, zones_for

SIZE = 16 << 20
WORDS = ('--blockdev driver=virtio-blk,node-name=v,serial=d0 ' + lib.SERVER + '--export type=nbd,id=e,node-name=v,name=v,writable=on')


@pytest.fixture
def image(tmp):
    with open(f'{tmp}/disk', 'wb') as f:
        f.truncate(SIZE)
    return f'{tmp}/disk'


def verified(vm, image, requests=1500):
    """Writes, reads, zeroes, trims and flushes of three connections against a model; then the disk itself."""
    model = Model(zones_for(SIZE, 3))
    load = Load(model, [vm.connect('v') for _ in range(3)], depth=16).run(requests)
    assert not load.dead and not load.failed
    load.flush()
    with open(image, 'rb') as f:
        faults = model.check(f.read())
    assert not faults, faults


def negotiated(vm):
    """The transport's features by device, from QEMU's monitor."""
    q = vm.qemu()
    return {d['name']: ' '.join(q('x-query-virtio-status', path=d['path'])['return']['guest-features']['transports'])
            for d in q('x-query-virtio')['return']}


ALL = {'virtio-blk', 'virtio-net', 'virtio-rng', 'virtio-serial'}


def answers(vm):
    """The console and the source of random bytes work, too."""
    assert 'qemu' in vm.qmp()('query-version')['return']
    assert 'broken' not in vm.console()
    vm.quit()


@pytest.mark.parametrize('event_idx', ['on', 'off'])
@pytest.mark.parametrize('indirect', ['on', 'off'])
def test_packed_rings(image, indirect, event_idx):
    more = f',packed=on,indirect_desc={indirect},event_idx={event_idx}'
    extra = ['-global', 'virtio-serial-pci.packed=on', '-global', 'virtio-rng-pci.packed=on']
    with VM(WORDS, [image], disk_options=more, nic_options=more, extra=extra) as vm:
        n = negotiated(vm)
        assert set(n) == ALL and all('VIRTIO_F_RING_PACKED' in f for f in n.values())
        assert ('VIRTIO_RING_F_EVENT_IDX' in n['virtio-blk']) == (event_idx == 'on')
        verified(vm, image)
        answers(vm)


def test_packed_rings_on_arm(image):
    with VM(WORDS, [image], machine='virt', disk_options=',packed=on', nic_options=',packed=on') as vm:
        n = negotiated(vm)
        assert 'VIRTIO_F_RING_PACKED' in n['virtio-blk'] and 'VIRTIO_F_RING_PACKED' in n['virtio-net']
        verified(vm, image, 500)
        answers(vm)


def test_packed_rings_without_mergeable_buffers(image):
    with VM(WORDS, [image], disk_options=',packed=on,queue-size=16', nic_options=',packed=on,mrg_rxbuf=off') as vm:
        verified(vm, image, 500)
        answers(vm)


@pytest.mark.parametrize('machine,nic', [('microvm', ''), ('microvm-noacpi', ',mrg_rxbuf=off'), ('microvm', ',indirect_desc=off,event_idx=off'),
                                         ('virt', '')])
def test_legacy_mmio(image, machine, nic):
    with VM(WORDS, [image], machine=machine, nic_options=nic, disk_options=',indirect_desc=off' if nic else '', legacy=True, bus='device') as vm:
        n = negotiated(vm)
        assert set(n) == ALL and not any('VIRTIO_F_VERSION_1' in f for f in n.values())
        verified(vm, image, 800)
        answers(vm)


def test_legacy_disk_grows(image):
    with VM(WORDS, [image], machine='microvm', legacy=True) as vm:
        q = vm.qemu()
        assert 'return' in q('block_resize', node_name='f0', size=2 * SIZE)
        vm.wait('the new size', lambda: f'size is now {2 * SIZE}' in vm.console(), 10)
        h = vm.connect('v')
        assert h.get_size() == 2 * SIZE == os.path.getsize(image)
        answers(vm)
