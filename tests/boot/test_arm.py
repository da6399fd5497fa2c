# SPDX-License-Identifier: BSD-2-Clause
"""What only Arm boards have: disks behind all of their controllers, keys, wired interrupts, trees that are wrong."""
import random
import re
import subprocess
import time

import pytest

import lib
from lib import VM

AHCI = ['-device', 'ich9-ahci,id=sata', '-device', 'ide-hd,bus=sata.0,drive=s,serial=s0']
# machine -> arguments for a SATA disk, and what the console calls it
SATA = {
    'virt': (AHCI, 'ahci pci 00:05.0'),
    'virt-gic3': (AHCI, 'ahci pci 00:05.0'),
    'virt,gic-version=3,its=off': (AHCI, 'ahci pci 00:05.0'),  # no messages: lines, as the tree says
    'sbsa': (['-device', 'ide-hd,bus=ide.0,drive=s,serial=s0'], 'ahci mmio 60100000'),
}


def raw_disk(path, size=16 << 20):
    with open(path, 'wb') as f:
        f.truncate(size)
    return path


def served(vm, name, size=16 << 20):
    """Written and read back in pieces of all sizes; and one by one, where each read needs its interrupts: a loop that
    nothing wakes goes on when the next timer of TCP is due, a quarter of a second later."""
    h = vm.connect(name)
    assert h.get_size() == size
    rnd = random.Random(name)
    for length in (512, 4096, 65536, 1 << 20):
        at = rnd.randrange((size - length) >> 9) << 9
        data = rnd.randbytes(length)
        h.pwrite(data, at)
        assert bytes(h.pread(length, at)) == data
    h.flush()
    start = time.monotonic()
    for i in range(200):
        h.pread(512, i * 4096)
    took = time.monotonic() - start
    assert took < 4, f'200 reads of {name} took {took:.1f} s: interrupts do not arrive'


def writable(*serials):
    return lib.SERVER + ' '.join(
        f'--blockdev driver={driver},node-name={s},serial={s} --export type=nbd,id={s},node-name={s},name={s},writable=on'
        for driver, s in serials)


@pytest.mark.parametrize('machine', SATA)
def test_all_controllers(machine, tmp):
    sata, said = SATA[machine]
    disks = [raw_disk(f'{tmp}/{n}') for n in 'dsm']
    extra = ['-blockdev', f'driver=file,node-name=s,filename={disks[1]}', *sata]
    words = [('virtio-blk', 'd0'), ('ahci', 's0')]
    if machine != 'sbsa':
        extra += ['-blockdev', f'driver=file,node-name=m,filename={disks[2]}', '-global', 'virtio-mmio.force-legacy=false',
                  '-device', 'virtio-blk-device,drive=m,serial=m0']
        words.append(('virtio-blk', 'm0'))
    with VM(writable(*words), disks[:1], machine=machine, extra=extra) as vm:
        console = vm.console()
        assert re.search(r'disk 0: virtio-blk pci 00:..\.0 serial d0 size 16777216 block 512 ro 0', console), console
        assert f'{said} port 0 serial s0 size 16777216 block 512 ro 0' in console, console
        for _, name in words:
            served(vm, name)
        vm.quit()


@pytest.mark.parametrize('machine', ['virt', 'sbsa'])
def test_power_key(machine, tmp):
    with VM(writable(('virtio-blk', 'd0')), [raw_disk(f'{tmp}/d')], machine=machine) as vm:
        vm.qemu()('system_powerdown')
        assert vm.status() == 0 and 'off: clean' in vm.console(), vm.console()


def test_configuration_from_a_file(tmp):
    with open(f'{tmp}/config', 'w') as f:
        f.write('[{"execute": "blockdev-add", "arguments": {"driver": "virtio-blk", "node-name": "n", "serial": "d0"}},'
                '{"execute": "nbd-server-start", "arguments": {"addr": {"type": "inet", "data": {"host": "0.0.0.0", "port": "10809"}}}},'
                '{"execute": "block-export-add", "arguments": {"type": "nbd", "id": "e", "node-name": "n", "name": "far"}}]')
    disk = raw_disk(f'{tmp}/d')
    for how in (['-fw_cfg', f'name=opt/strongroom/config,file={tmp}/config'], ['-initrd', f'{tmp}/config']):
        with VM('console=ttyAMA0', [disk], machine='virt', extra=how) as vm:
            assert vm.connect('far').get_size() == 16 << 20


def test_configuration_error_has_a_status():
    with VM('--blockdev driver=nonsense', machine='sbsa', wait=False) as vm:
        assert vm.status() == 3, vm.console()


BRIDGES = {
    'virt-gic3': (['pcie-root-port,id=p1,chassis=1,slot=1', 'x3130-upstream,id=up,bus=p1',
                   'xio3130-downstream,id=last,bus=up,chassis=2,slot=2', 'pcie-root-port,id=p2,chassis=3,slot=3'], '03:00.0'),
    'sbsa': (['pcie-pci-bridge,id=p1,msi=off', 'pci-bridge,id=last,bus=p1,chassis_nr=1,msi=off,addr=2'], '02:03.0'),
}


@pytest.mark.parametrize('machine', BRIDGES)
def test_behind_bridges(machine, tmp):
    """Buses without numbers and BARs without addresses, and interrupts through them: messages, and lines."""
    bridges, place = BRIDGES[machine]
    disks = [raw_disk(f'{tmp}/{n}') for n in 'ab']
    extra = [w for b in bridges for w in ('-device', b)]
    extra += ['-blockdev', f'driver=file,node-name=b,filename={disks[1]}',
              '-device', f'virtio-blk-pci,bus=last,drive=b,serial=b0,addr={int(place[3:5])}']
    with VM(writable(('virtio-blk', 'd0'), ('virtio-blk', 'b0')), disks[:1], machine=machine, extra=extra) as vm:
        assert f'virtio-blk pci {place} serial b0' in vm.console(), vm.console()
        served(vm, 'b0')
        served(vm, 'd0')


# What is replaced in QEMU's own tree; a line that tells; a device that serves nevertheless.
BAD_TREES = {
    'pci': (r'(pcie@10000000 \{.*?reg = )<.*?>', r'\1<0x40 0x10000000 0x00 0x1000>', 'pcie@10000000 left out: bad address', 'm0'),
    'pci-cells': (r'(pcie@10000000 \{.*?#address-cells = )<.*?>', r'\1<0x7fffffff>', None, 'm0'),
    'mmio-interrupt': (r'(virtio_mmio@a003e00 \{.*?interrupts = )<.*?>', r'\1<0x00 0xffff 0x01>',
                       'virtio_mmio@a003e00 left out: bad address or interrupt', 'd0'),
    'mmio-address': (r'(virtio_mmio@a003e00 \{.*?reg = )<.*?>', r'\1<0xffffffff 0xffffffff 0xffffffff 0x200>',
                     'virtio_mmio@a003e00 left out: bad address or interrupt', 'd0'),
    'circle': (r'(intc@8000000 \{)', r'\1 interrupt-parent = <0x8003>;', None, 'd0'),
    'aliases': (r'stdout-path = ".*?"', r'stdout-path = "me"; }; aliases { me = "me"', None, 'd0'),
    'messages': (r'(v2m@8020000 \{.*?reg = )<.*?>', r'\1<0x00>', 'v2m@8020000 left out: bad address', 'm0'),
    'timer': (r'(timer \{.*?interrupts = )<.*?>', r'\1<0x01 0x0d 0x04>', 'timer left out: no interrupt for the virtual timer', 'd0'),
    'key': (r'linux,code = <0x74>', 'linux,code = "power"', None, 'd0'),
}


@pytest.fixture(scope='module')
def tree(tmp_path_factory):
    path = tmp_path_factory.mktemp('tree') / 'virt.dtb'
    subprocess.run(['qemu-system-aarch64', '-M', f'virt,dumpdtb={path}', '-m', '64', '-cpu', 'max', '-nodefaults', '-display', 'none'],
                   check=True, capture_output=True, timeout=lib.PATIENCE)
    return subprocess.run(['dtc', '-q', '-I', 'dtb', '-O', 'dts', path], check=True, capture_output=True, text=True,
                          timeout=lib.PATIENCE).stdout


def spoil(tree, pattern, text, path):
    bad, n = re.subn(pattern, text, tree, count=1, flags=re.S)
    assert n == 1
    subprocess.run(['dtc', '-q', '-f', '-I', 'dts', '-O', 'dtb', '-o', path], input=bad, check=True, text=True,
                   timeout=lib.PATIENCE)


def test_without_a_console(tree, tmp):
    spoil(tree, r'(pl011@9000000 \{.*?reg = )<.*?>', r'\1<0x00 0x9000000>', f'{tmp}/bad.dtb')

    def answers():
        try:
            return vm.connect('d0')
        except lib.nbd.Error:
            return None
    with VM(writable(('virtio-blk', 'd0')), [raw_disk(f'{tmp}/d')], machine='virt', extra=['-dtb', f'{tmp}/bad.dtb'],
            wait=False) as vm:
        assert vm.wait('the server', answers).get_size() == 16 << 20
        assert vm.console() == ''
        vm.qemu()('system_powerdown')
        assert vm.status() == 0


@pytest.mark.parametrize('what', BAD_TREES)
def test_bad_tree(what, tree, tmp):
    pattern, text, line, serves = BAD_TREES[what]
    spoil(tree, pattern, text, f'{tmp}/bad.dtb')
    disks = [raw_disk(f'{tmp}/{n}') for n in 'dm']
    extra = ['-dtb', f'{tmp}/bad.dtb', '-blockdev', f'driver=file,node-name=m,filename={disks[1]}',
             '-device', 'virtio-blk-device,drive=m,serial=m0']
    bus = 'device' if serves == 'm0' else 'pci'
    with VM(writable(('virtio-blk', serves)), disks[:1], machine='virt', bus=bus, extra=extra) as vm:
        assert not line or line in vm.console(), vm.console()
        served(vm, serves)
        if what != 'key':  # asked for by a timer, when nothing else happens
            vm.qemu()('system_powerdown')
            assert vm.status() == 0 and 'off: clean' in vm.console()
