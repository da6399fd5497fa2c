# SPDX-License-Identifier: BSD-2-Clause
"""Disks for siblings, measured: instructions of the storage VM per request, throughput beside QEMU's in-process virtio-blk and
qemu-storage-daemon's vhost-user-blk export of the same image, and the pause when the storage VM is killed and started again.

All under TCG, the peers interleaved, medians of 9 (RUNS=N). Prints a table and writes build/bench-sibling.json.
"""
import json
import os
import re
import statistics
import subprocess
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [os.path.join(HERE, '../tests'), HERE]
import guest  # noqa: E402
import lib  # noqa: E402
from sibling import Bridge, Sibling  # noqa: E402

RUNS = int(os.environ.get('RUNS', '9'))
MIB = 1 << 20
MEMORY = '256M'
# bytes, pieces of memory, requests in flight, requests
INSN = [(4096, 1, 32, 8000), (16384, 4, 32, 6000), (65536, 1, 32, 4000), (65536, 16, 32, 4000), (262144, 1, 32, 1500),
        (262144, 64, 32, 1500), (458752, 112, 16, 800), (MIB, 1, 16, 400)]
SPEED = [('read 4k qd32', 'read', 4096, 32, 8000), ('read 1M qd4', 'read', MIB, 4, 400), ('write 4k qd32', 'write', 4096, 32, 8000)]
results = []


def report(name, value, unit, values=(), peer=None, peer_value=None):
    results.append({'name': name, 'form': 'firmware', 'machine': 'q35', 'cpu': 'max', 'value': value, 'unit': unit, 'n': len(values) or 1,
                    'min': min(values, default=value), 'max': max(values, default=value), 'peer': peer, 'peer_value': peer_value})
    beside = f'   {peer}: {peer_value:.1f}, ratio {value / peer_value:.2f}' if peer else ''
    print(f'{name:44} {value:10.1f} {unit}{beside}', flush=True)


def images(d):
    run = os.urandom(MIB)
    with open(f'{d}/raw', 'wb') as f:
        for i in range(256):
            f.write(i.to_bytes(8, 'little') + run[8:])
    lib.run('qemu-img', 'convert', '-O', 'qcow2', f'{d}/raw', f'{d}/qcow2')
    os.truncate(f'{d}/qcow2', 300 * MIB)


def words(fmt):
    disk = '--blockdev driver=virtio-blk,node-name=d,serial=d0 '
    node = 'd'
    if fmt != 'raw':
        disk, node = disk + f'--blockdev driver={fmt},node-name=q,file=d ', 'q'
    return disk + f'--export type=vhost-user-blk,id=e,node-name={node},sibling=a,writable=on'


def median_insn(s, c, row):
    size, pieces, depth, n = row
    ask = ('bench', 'vda', 'read', size, depth, n, pieces)
    s.do(*ask)
    found = []
    for _ in range(3):
        time.sleep(.25)
        before = c.read()[0]
        s.do(*ask)
        time.sleep(.25)
        found.append((c.read()[0] - before) / n)
    return found


def fit(points):
    """value = a + b * pieces, least squares."""
    n, x, y = len(points), [p[0] for p in points], [p[1] for p in points]
    mx, my = sum(x) / n, sum(y) / n
    b = sum((p - mx) * (q - my) for p, q in points) / sum((p - mx) ** 2 for p in x)
    return my - b * mx, b


def insn(d, fmt):
    c, points = guest.Counter(), []
    with Bridge('a', size=MEMORY) as b, lib.VM(words(fmt), [f'{d}/{fmt}'], net=None, extra=[*b.of_storage_vm(), *c.words]), \
            Sibling(b, 'a') as s:
        for row in INSN:
            found = median_insn(s, c, row)
            report(f'insn.sibling.read.{row[0] >> 10}k.{row[1]}seg.qd{row[2]}.{fmt}', statistics.median(found), 'insn/req', found)
            if row[0] <= 262144:
                points.append((row[1], statistics.median(found)))
    a, slope = fit(points)
    report(f'insn.sibling.fit-a.{fmt}', a, 'insn/req')
    report(f'insn.sibling.fit-b.{fmt}', slope, 'insn/segment')
    c.close()


def speed(d, fmt):
    path = f'{d}/{fmt}'
    sock = f'{d}/qsd.sock'
    spec = f'driver={fmt},node-name=q,file.driver=file,file.filename={path}'
    table = {}
    for _ in range(RUNS):
        for who in ('ours', 'virtio-blk', 'qsd'):
            with Bridge('a', size=MEMORY) as b:
                vm = qsd = disk = None
                if who == 'ours':
                    vm = lib.VM(words(fmt), [path], net=None, extra=b.of_storage_vm())
                elif who == 'qsd':
                    qsd = subprocess.Popen(['qemu-storage-daemon', '--blockdev', spec, '--export',
                                            f'vhost-user-blk,id=e,node-name=q,addr.type=unix,addr.path={sock},writable=on'])
                    b.until('qemu-storage-daemon', lambda: os.path.exists(sock))
                    disk = ['-chardev', f'socket,id=c,path={sock}', '-device', 'vhost-user-blk-pci,chardev=c']
                else:
                    disk = ['-blockdev', spec, '-device', 'virtio-blk-pci,drive=q']
                with Sibling(b, 'a', disk=disk) as s:
                    for name, how, size, depth, n in SPEED:
                        s.do('bench', 'vda', how, size, depth, n // 4, 1)
                        took = float(s.do('bench', 'vda', how, size, depth, n, 1))
                        table.setdefault((name, who), []).append(n / took)
                    s.off()
                if vm:
                    vm.kill()
                if qsd:
                    qsd.terminate()
                    qsd.wait(10)
    for name, *_ in SPEED:
        ours = table[name, 'ours']
        for who in ('virtio-blk', 'qsd'):
            report(f'speed.sibling.{name.replace(" ", ".")}.{fmt}', statistics.median(ours), 'req/s', ours, who,
                   statistics.median(table[name, who]))


def pauses(d):
    """From SIGKILL to the next completion, as the sibling sees it, with allocating writes on their way. The process starts again at once."""
    lib.run('qemu-img', 'create', '-q', '-f', 'qcow2', f'{d}/fresh', '256M')
    os.truncate(f'{d}/fresh', 300 * MIB)
    found = []
    with Bridge('a') as b:
        vm = lib.VM(words('qcow2'), [f'{d}/fresh'], net=None, extra=b.of_storage_vm())
        with Sibling(b, 'a') as s:
            for _ in range(RUNS):
                s.do('load', 'vda', 4)
                time.sleep(.5)
                vm.kill()
                vm = lib.VM(words('qcow2'), [f'{d}/fresh'], net=None, extra=b.of_storage_vm())
                time.sleep(.5)
                found.append(int(re.search(r'wrong 0 longest (\d+) ms', s.do('stop')).group(1)))
        vm.kill()
    report('sibling.pause-at-restart', statistics.median(found), 'ms', found)


def main():
    os.makedirs(guest.OUT, exist_ok=True)
    lib.run('gcc', '-O2', '-fPIC', '-shared', '-o', f'{guest.OUT}/icount.so', f'{HERE}/icount.c')
    d = lib.scratch()
    images(d)
    for fmt in ('raw', 'qcow2'):
        insn(d, fmt)
    pauses(d)
    for fmt in ('raw', 'qcow2'):
        speed(d, fmt)
    with open(os.path.join(lib.BUILD, 'bench-sibling.json'), 'w') as f:
        json.dump(results, f, indent=1)


main()
