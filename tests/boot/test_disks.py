# SPDX-License-Identifier: BSD-2-Clause
"""Disks that fail, vanish, grow, or have their own limits."""
import pytest

import lib
from lib import VM, nbd, run
from verify import Load, Model, zones_for

WORDS = ('--blockdev driver=virtio-blk,node-name=disk0,serial=d0 --blockdev driver=virtio-blk,node-name=disk1,serial=d1 ' +
         lib.SERVER + '--export type=nbd,id=e0,node-name=disk0,name=v0,writable=on '
         '--export type=nbd,id=e1,node-name=disk1,name=v1,writable=on')


@pytest.fixture
def files(tmp):
    for n in 'ab':
        lib.pattern_image(f'{tmp}/{n}', 8 << 20)
    return [f'{tmp}/a', f'{tmp}/b']


def test_errors_reach_their_user_only(files, tmp):
    with open(f'{tmp}/rules', 'w') as f:
        f.write('[inject-error]\nevent = "none"\niotype = "read"\nerrno = "5"\nsector = "2048"\n'
                '[inject-error]\nevent = "none"\niotype = "write"\nerrno = "28"\nsector = "4096"\n')
    bad = f'driver=blkdebug,config={tmp}/rules,image.driver=file,image.filename={files[0]}'
    with VM(WORDS, [bad, files[1]], disk_options=',werror=report,rerror=report') as vm:
        h, other = vm.connect('v0'), vm.connect('v1')
        with pytest.raises(nbd.Error) as e:
            h.pread(4096, 2048 * 512)
        assert e.value.errno == 'EIO'
        with pytest.raises(nbd.Error) as e:
            h.pwrite(bytes(4096), 4096 * 512)
        assert e.value.errno == 'EIO'  # virtio-blk has one status for all errors, and so has ATA
        assert h.pread(4096, 0) == open(files[0], 'rb').read(4096)
        assert other.pread(4096, 2048 * 512) == open(files[1], 'rb').read()[2048 * 512:][:4096]
        vm.quit()


def covers(r, sector):
    return r.zone.offset(r.first) <= sector * 512 < r.zone.offset(r.first + r.count)


def test_errors_under_verified_load(tmp):
    """A virtio-blk and an AHCI disk in one machine, each with a sector that cannot be read and one that cannot be written: requests of
    those fail, with EIO, and no other does; AHCI has to do again what was in flight beside them."""
    size, bad_read, bad_write = 4 << 20, 1000, 5000
    disks = []
    for n in 'ab':
        with open(f'{tmp}/{n}', 'wb') as f:
            f.truncate(size)
        with open(f'{tmp}/rules-{n}', 'w') as f:
            for kind, errno, sector in (('read', 5, bad_read), ('write', 28, bad_write), ('write-zeroes', 28, bad_write)):
                f.write(f'[inject-error]\nevent = "none"\niotype = "{kind}"\nerrno = "{errno}"\nsector = "{sector}"\n')
        disks.append(f'driver=blkdebug,config={tmp}/rules-{n},image.driver=file,image.filename={tmp}/{n}')
    report = ',werror=report,rerror=report'
    extra = ['-blockdev', f'{disks[1]},node-name=s', '-device', f'ide-hd,drive=s,bus=ide.0,serial=d1{report}']
    with VM(WORDS.replace('virtio-blk,node-name=disk1', 'ahci,node-name=disk1'), disks[:1], disk_options=report, extra=extra) as vm:
        loads = [Load(Model(zones_for(size, 2)), [vm.connect(v) for _ in range(2)], depth=16, seed=7) for v in ('v0', 'v1')]
        for _ in range(4):
            for load in loads:
                for client, kind, sector in ((0, 'read', bad_read), (1, 'write', bad_write)):
                    z = load.model.zones[client]
                    load.run(100)
                    load.issue(client, kind, z, sector - z.start // 512 - 3, 8)
                load.run(100)
                assert not load.dead
        for load, name in zip(loads, 'ab'):
            assert load.failed and all(r.errno == 5 for r in load.failed), [(r, r.errno) for r in load.failed]
            for r in load.failed:
                assert covers(r, bad_read if r.kind == 'read' else bad_write), r
            kinds = {r.kind for r in load.failed}
            assert 'read' in kinds and 'write' in kinds, kinds
            assert not [r for r in load.model.requests.values() if r.kind == 'write' and not r.errno and covers(r, bad_write)]
            load.flush()
            with open(f'{tmp}/{name}', 'rb') as f:
                faults = load.model.check(f.read())
            assert not faults, faults
        vm.quit()


def test_hot_plug_is_passed_over(tmp):
    """Disks behind the slots of PCIe ports are found at start. One that comes later is not looked for, and the request to give one up is
    not answered: neither disturbs the disks that are there."""
    size = 4 << 20
    for n in 'ab':
        with open(f'{tmp}/{n}', 'wb') as f:
            f.truncate(size)
    slots = ['-global', 'ICH9-LPC.acpi-pci-hotplug-with-bridge-support=off', '-blockdev', f'driver=file,filename={tmp}/b,node-name=b']
    for i in range(2):
        slots += ['-device', f'pcie-root-port,id=slot{i},chassis={i},slot={i}']
    slots += ['-blockdev', f'driver=file,filename={tmp}/a,node-name=a', '-device', 'virtio-blk-pci,drive=a,serial=d0,id=first,bus=slot0']
    words = '--blockdev driver=virtio-blk,node-name=v,serial=d0 ' + lib.SERVER + '--export type=nbd,id=e,node-name=v,name=v,writable=on'
    with VM(words, extra=slots) as vm:
        q, load = vm.qemu(), Load(Model(zones_for(size, 2)), [vm.connect('v') for _ in range(2)])
        load.run(200)
        assert q('device_add', driver='virtio-blk-pci', drive='b', serial='d1', id='second', bus='slot1') == {'return': {}}
        load.run(200)
        for disk in ('second', 'first'):
            assert q('device_del', id=disk) == {'return': {}}
            load.run(200)
        assert not load.dead and not load.failed
        load.flush()
        with open(f'{tmp}/a', 'rb') as f:
            faults = load.model.check(f.read())
        assert not faults, faults
        vm.quit()


def test_grows_live(files):
    with VM(WORDS, files) as vm:
        assert vm.connect('v0').get_size() == 8 << 20
        assert 'return' in vm.qemu()('block_resize', node_name='f0', size=16 << 20)
        vm.wait('the new size', lambda: vm.connect('v0').get_size() == 16 << 20, 20)
        h = vm.connect('v0')
        h.pwrite(b'x' * 512, (16 << 20) - 512)
        assert bytes(h.pread(512, (16 << 20) - 512)) == b'x' * 512


@pytest.mark.parametrize('opts', ['logical_block_size=4096,physical_block_size=4096', 'num-queues=4', 'queue-size=16',
                                  'seg-max-adjust=off', 'discard=off,write-zeroes=off', 'write-cache=off', 'iommu_platform=off',
                                  'indirect_desc=off', 'event_idx=off', 'indirect_desc=off,event_idx=off,queue-size=8'])
def test_device_variants(files, opts):
    with VM(WORDS, files, disk_options=',' + opts) as vm:
        for e in ('v0', 'v1'):
            out = run('qemu-io', '-f', 'raw', '-c', 'write -P 7 4096 1M', '-c', 'read -P 7 4096 1M', '-c', 'write -P 8 777 3333',
                      '-c', 'read -P 8 777 3333', '-c', 'read -P 7 4112 8', '-c', 'write -z 2M 1M', '-c', 'read -P 0 2M 1M',
                      '-c', 'discard 4M 1M', '-c', 'flush', vm.uri(e)).stdout
            assert 'failed' not in out and 'error' not in out.lower(), out
        vm.quit()


def test_read_only_disk(files):
    ro = f'driver=file,read-only=on,filename={files[0]}'
    with VM(WORDS, [ro, files[1]], wait=False) as vm:
        assert vm.status() == 3 and 'read-only' in vm.console()
