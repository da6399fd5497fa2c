#!/usr/bin/python3
# SPDX-License-Identifier: BSD-2-Clause
"""Every figure that we quote, measured beside its peer in one run; prints tables, writes build/bench.json.

    bench/run.py [--check] [--hot] [--only boot,insn,open,mem,size,host] [--no-peer]

--check: only instruction counts, compared with bench/expected.json (+- 3 %). --hot: where the instructions of each row go.
The peer of the firmware is the Linux storage VM of ../shared/baseline (built into build/baseline when it can be), default and tuned; that of the
host form is qemu-storage-daemon. Everything but the building of the peer runs in a network namespace of its own.
"""
import argparse
import bisect
import collections
import json
import os
import shutil
import statistics
import subprocess
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import guest  # noqa: E402

EXPECTED = os.path.join(guest.TOP, 'bench/expected.json')
TOLERANCE = .03
results = []


def report(name, form, machine, cpu, value, unit, values=(), peer='', peer_value=None, target=None):
    values = list(values) or [value]
    results.append({'name': name, 'form': form, 'machine': machine, 'cpu': cpu, 'value': round(value, 3), 'unit': unit,
                    'n': len(values), 'min': round(min(values), 3), 'max': round(max(values), 3), 'peer': peer,
                    'peer_value': None if peer_value is None else round(peer_value, 3)})
    print(f'{name:44} {value:12,.{2 if value < 10 else 1}f} {unit:12} ' + (f'(n={len(values)}, {min(values):,.1f}-{max(values):,.1f}) ' if len(values) > 1 else '') +
          (f'{peer} {peer_value:,.1f} ' if peer_value is not None else '') + (f'to reach {target}' if target else ''), flush=True)


# ---- Boot ------------------------------------------------------------------------------------------

def boot_floor(machine):
    image = 'floor.img' if machine.startswith('virt') else 'floor.elf'
    g = guest.Guest(['-kernel', f'{guest.OUT}/{image}'], machine)
    try:
        return g.console_until(b'!') * 1e3
    finally:
        g.close()


def boot_ours(machine):
    g = guest.strongroom(machine)
    try:
        g.console_until(b'ready: ')
        g.connect('raw')
        return (time.time() - g.start) * 1e3
    finally:
        g.close()


def boot_linux():
    g = guest.linux()
    try:
        return guest.wait_nbd(g, 'vda') * 1e3
    finally:
        g.close()


def image_range():
    out = subprocess.run(['readelf', '-lW', guest.FIRMWARE], stdout=subprocess.PIPE, text=True, check=True).stdout
    loads = [line.split() for line in out.splitlines() if line.split()[:1] == ['LOAD']]
    return min(int(x[2], 16) for x in loads), max(int(x[2], 16) + int(x[5], 16) for x in loads)


def boot_instructions(machine):
    c = guest.Counter(*image_range())
    g = guest.strongroom(machine, counter=c)
    try:
        g.console_until(b'ready: ')
        return c.read()[1]
    finally:
        g.close()
        c.close()


def bench_ports():
    """What six empty ports of q35's AHCI controller cost, in turn with none."""
    empty, none = [], []
    for _ in range(9):
        empty.append(boot_ours('q35'))
        none.append(boot_ours('q35,sata=off'))
    more = [a - b for a, b in zip(empty, none)]
    report('boot.ahci-empty-ports.q35', 'firmware', 'q35', 'max', statistics.median(more), 'ms', more, 'without', statistics.median(none), '10')


def bench_boot(peer):
    for machine, more in (('q35', 60), ('microvm', 50), ('virt', 60)):
        floor, ours, theirs = [], [], []
        for i in range(9):
            floor.append(boot_floor(machine))
            ours.append(boot_ours(machine))
            if peer and machine == 'q35' and i < 3:
                theirs.append(boot_linux())
        f, o = statistics.median(floor), statistics.median(ours)
        report(f'boot.floor.{machine}', 'firmware', machine, 'max', f, 'ms', floor)
        report(f'boot.handshake.{machine}', 'firmware', machine, 'max', o, 'ms', ours, 'linux-vm' if theirs else '',
               statistics.median(theirs) if theirs else None, f'{f + more:.0f}')
        report(f'boot.insn.{machine}', 'firmware', machine, 'max', boot_instructions(machine) / 1e6, 'M insn', target='12')
    bench_ports()


# ---- Instructions per request ---------------------------------------------------------------------------

ROWS = (('read.4k.qd32', 'raw', False, 4096, 32, 2000, '7000'), ('read.4k.qd32', 'qcow2', False, 4096, 32, 2000, '7000'),
        ('write.4k.qd32', 'raw', True, 4096, 32, 2000, '7000'), ('read.4k.qd1', 'raw', False, 4096, 1, 500, ''),
        ('write.4k.qd1', 'raw', True, 4096, 1, 500, ''), ('read.128k.qd8', 'raw', False, 131072, 8, 400, '25000'),
        ('read.128k.qd8', 'qcow2', False, 131072, 8, 400, '25000'), ('write.128k.qd8', 'raw', True, 131072, 8, 400, '40000'))


# Written images, without and with restart-safe=on. `fresh`: every cluster is new, and the flush at the end counts.
WRITE_ROWS = (('write.4k.qd32', 'qcow2', True, 4096, 32, 2000, '8000'), ('write.4k.qd32', 'fresh', True, 4096, 32, 2000, '15000'))


def count_fresh(g, counter, row):
    """The same for images that can be filled once: one for each measurement."""
    _, _, write, bs, qd, n, _ = row
    found = []
    for i in range(guest.FRESH):
        h = g.connect(g.exports[f'fresh{i}'])
        time.sleep(.25)
        a = counter.read()[0]
        guest.load(h, write, bs, qd, n)
        h.flush()
        time.sleep(.25)
        found.append((counter.read()[0] - a) / n)
        h.shutdown()
    return found


def count(g, counter, row, repeat=3):
    """Instructions per request, idle time taken out by settling around each run."""
    _, export, write, bs, qd, n, _ = row
    if export == 'fresh':
        return count_fresh(g, counter, row)
    h = g.connect(g.exports[export])
    guest.load(h, write, bs, qd, n // 4, bs > 65536, seed=4)
    found = []
    for _ in range(repeat):
        time.sleep(.25)
        a = counter.read()[0]
        guest.load(h, write, bs, qd, n, bs > 65536)
        time.sleep(.25)
        found.append((counter.read()[0] - a) / n)
    h.shutdown()
    return found


def rows_of(start, rows):
    c = guest.Counter()
    g = start(counter=c)
    try:
        guest.wait_nbd(g, g.exports['qcow2'])
        return {(r[0], r[1]): count(g, c, r) for r in rows}
    finally:
        g.close()
        c.close()


def no_tso(counter):
    raw, q2 = guest.disks()
    g = guest.Guest(['-kernel', guest.FIRMWARE, '-append', guest.WORDS, *guest.drive(0, raw), *guest.drive(1, q2), '-global',
                     'virtio-net-pci.host_tso4=off', '-global', 'virtio-net-pci.host_tso6=off'], counter=counter)
    g.exports = {'raw': 'raw', 'qcow2': 'qcow2'}
    return g


def bench_insn(peer):
    ours = {**rows_of(guest.strongroom, ROWS), **rows_of(guest.writing, WRITE_ROWS)}
    peers = {}
    if peer:
        for name, tuned in (('linux-vm', False), ('linux-vm-tuned', True)):
            peers[name] = rows_of(lambda counter: guest.linux(tuned, counter), ROWS + WRITE_ROWS)
    for r in ROWS + WRITE_ROWS:
        key = (r[0], r[1])
        name = f'insn.nbd.{r[0]}.tap.{r[1]}'
        values = ours[key]
        if not peers:
            report(name, 'firmware', 'q35', 'max', statistics.median(values), 'insn/req', values, target=r[6])
        for p, table in peers.items():
            report(name, 'firmware', 'q35', 'max', statistics.median(values), 'insn/req', values, p,
                   statistics.median(table[key]), r[6])
    for (row, export), values in rows_of(lambda counter: guest.writing(counter, safe=True), WRITE_ROWS).items():
        report(f'insn.nbd.{row}.tap.{export}-restart-safe', 'firmware', 'q35', 'max', statistics.median(values), 'insn/req', values)
    bench_devices()
    bench_arm(ours)
    seg = rows_of(no_tso, [ROWS[5]])[(ROWS[5][0], ROWS[5][1])]
    report('insn.nbd.read.128k.qd8.tap-notso.raw', 'firmware', 'q35', 'max', statistics.median(seg), 'insn/req', seg, target='70000')


def bench_arm(x86):
    """The same rows on aarch64, beside those of x86_64."""
    for key, values in rows_of(lambda counter: guest.strongroom('virt', counter=counter), ROWS).items():
        base = statistics.median(x86[key])
        report(f'insn.nbd.{key[0]}.tap.{key[1]}.virt', 'firmware', 'virt', 'max', statistics.median(values), 'insn/req', values, 'x86_64',
               base, f'{1.3 * base:.0f}')


def bench_devices():
    """The first row over packed rings and over AHCI, in turn with split rings and virtio-blk."""
    row, found = ROWS[0], collections.defaultdict(list)
    starts = {'split': guest.strongroom, 'packed': guest.packed, 'ahci': guest.ahci}
    for _ in range(5):
        for name, start in starts.items():
            found[name] += rows_of(start, [row])[row[:2]]
    base = statistics.median(found['split'])
    for name, most in (('packed', 1), ('ahci', 1.3)):
        report(f'insn.nbd.{row[0]}.tap.{row[1]}-{name}', 'firmware', 'q35', 'max', statistics.median(found[name]), 'insn/req', found[name],
               'virtio-blk', base, f'{most * base:.0f}')


def symbols():
    out = subprocess.run(['nm', '-n', guest.DEBUG], stdout=subprocess.PIPE, text=True, check=True).stdout
    table = sorted((int(p[0], 16), p[2]) for p in (line.split() for line in out.splitlines()) if len(p) == 3 and p[1] in 'tTwW')
    return [a for a, _ in table], [n for _, n in table]


def bench_hot():
    """Per function, where the instructions of each row go."""
    addresses, names = symbols()
    for r in ROWS + WRITE_ROWS:
        c = guest.Counter(hot=True)
        g = (guest.writing if r in WRITE_ROWS else guest.strongroom)(counter=c)
        try:
            g.console_until(b'ready: ')
            h = g.connect(g.exports['fresh0' if r[1] == 'fresh' else r[1]])
            if r[1] != 'fresh':
                guest.load(h, r[2], r[3], r[4], r[5] // 4, r[3] > 65536, seed=4)
            time.sleep(.25)
            before = {(a, n): k for a, n, k in c.blocks()}
            guest.load(h, r[2], r[3], r[4], r[5], r[3] > 65536)
            time.sleep(.25)
            per = collections.Counter()
            for a, n, k in c.blocks():
                i = bisect.bisect(addresses, a) - 1
                per[names[i] if i >= 0 else hex(a)] += n * (k - before.get((a, n), 0))
        finally:
            g.close()
            c.close()
        print(f'\n{r[0]} {r[1]}: {sum(per.values()) / r[5]:,.0f} instructions per request')
        for name, k in per.most_common(30):
            print(f'  {k / r[5]:9,.0f} {100 * k / max(1, sum(per.values())):5.1f} %  {name}')


# ---- Memory and size -------------------------------------------------------------------------------------

def serves_in(mem, image):
    """The target's load: verified 4 KiB QD32 I/O on 4 connections, one 32 MiB read, one 2 MiB compressed cluster."""
    import random
    raw, _ = guest.disks()
    words = ('--netdev driver=virtio-net,ip=10.0.2.15/24 --blockdev driver=virtio-blk,node-name=disk0,serial=d0 '
             '--blockdev driver=virtio-blk,node-name=disk1,serial=d1 --blockdev driver=qcow2,node-name=vol,file=disk1,read-only=on '
             '--nbd-server addr.type=inet,addr.host=0.0.0.0,addr.port=10809 --export type=nbd,id=raw,node-name=disk0,name=raw,writable=on '
             '--export type=nbd,id=qcow2,node-name=vol,name=qcow2')
    g = guest.Guest(['-kernel', guest.FIRMWARE, '-append', words, *guest.drive(0, raw), *guest.drive(1, image)], mem=mem)
    try:
        g.console_until(b'ready: ', 20)
        hs = [g.connect('raw') for _ in range(4)]
        for h in hs:
            h.set_strict_mode(0)
        want, flight = {}, []
        for i in range(128):
            data = random.Random(i).randbytes(4096)
            want[i << 16] = data
            flight.append((hs[i % 4], hs[i % 4].aio_pwrite(guest.nbd.Buffer.from_bytearray(bytearray(data)), i << 16)))
        for h, c in flight:
            while not h.aio_command_completed(c):
                if not h.poll(20000):
                    return False
        bufs = {at: guest.nbd.Buffer(4096) for at in want}
        flight = [(hs[(i + 1) % 4], hs[(i + 1) % 4].aio_pread(bufs[at], at)) for i, at in enumerate(want)]
        for h, c in flight:
            while not h.aio_command_completed(c):
                if not h.poll(20000):
                    return False
        if any(bytes(bufs[at].to_bytearray()) != data for at, data in want.items()):
            return False
        if len(hs[0].pread(32 << 20, 0)) != 32 << 20:
            return False
        z = g.connect('qcow2')
        return bytes(z.pread(2 << 20, 2 << 20)) == b'\x5a' * (2 << 20)
    except (RuntimeError, guest.nbd.Error, OSError):
        return False
    finally:
        g.close()


def bench_mem(_):
    image = f'{guest.SHM}/compressed.qcow2'
    subprocess.run(['qemu-img', 'create', '-q', '-f', 'qcow2', '-o', 'cluster_size=2M,compression_type=zstd', image, '64M'], check=True)
    subprocess.run(['qemu-io', '-f', 'qcow2', '-c', 'write -q -c -P 0x5a 2M 2M', image], check=True, stdout=subprocess.DEVNULL)
    os.truncate(image, (os.path.getsize(image) + 511) & ~511)
    least = next((m for m in range(4, 65) if serves_in(m, image)), None)
    if least is None:
        print('mem.least: nothing up to 64 MiB passes')
        return
    report('mem.least', 'firmware', 'q35', 'max', least, 'MiB', peer='linux-vm', peer_value=106, target='12')


def bench_size(_):
    report('size.file', 'firmware', 'q35', '-', os.path.getsize(guest.FIRMWARE) / 1e3, 'kB', peer='linux-vm', peer_value=19840,
           target='800')
    report('size.file.virt', 'firmware', 'virt', '-', os.path.getsize(guest.FIRMWARE_ARM) / 1e3, 'kB', target='800')


def bench_open(_):
    """What is read of a 64 TiB image until it is served."""
    image, monitor = guest.fresh('huge', 64 << 40, 0), f'{guest.SHM}/huge.qmp'
    os.truncate(image, (os.path.getsize(image) + 511) & ~511)
    g = guest.Guest(['-kernel', guest.FIRMWARE, '-append', '--netdev driver=virtio-net,ip=10.0.2.15/24 --blockdev driver=qcow2,node-name=v,'
                     'file.driver=virtio-blk,file.serial=d0 --nbd-server addr.type=inet,addr.host=0.0.0.0,addr.port=10809 --export '
                     'type=nbd,id=v,node-name=v,name=v,writable=on', *guest.drive(0, image), '-qmp', f'unix:{monitor},server=on,wait=off'])
    try:
        g.console_until(b'ready: ')
        if g.connect('v').get_size() != 64 << 40:
            raise RuntimeError('the 64 TiB image has another size')
        stats = guest.monitor(monitor, 'query-blockstats')[0]['stats']
        report('open.read.64t', 'firmware', 'q35', 'max', stats['rd_bytes'] / (1 << 20), 'MiB', target='1.5')
    finally:
        g.close()


# ---- The host form -----------------------------------------------------------------------------------------

def cpu_seconds(pid):
    """By the process's CPU clock: clock_getcpuclockid(3), whose ids are made so."""
    return time.clock_gettime(~pid << 3 | 2)


def host_server(kind, fmt, image, sock, writable, option=''):
    if os.path.exists(sock):
        os.unlink(sock)
    words = ['--blockdev', f'driver=file,node-name=f0,filename={image}', '--blockdev', f'driver={fmt},node-name=v,file=f0' +
             ('' if writable else ',read-only=on'), '--nbd-server', f'addr.type=unix,addr.path={sock}', '--export',
             'type=nbd,id=e,node-name=v,name=v' + (',writable=on' if writable else '') + option]
    p = subprocess.Popen([guest.HOST if kind == 'ours' else 'qemu-storage-daemon', *words], stderr=subprocess.DEVNULL)
    end = time.time() + 10
    while not os.path.exists(sock):
        if time.time() > end or p.poll() is not None:
            raise RuntimeError(f'waited 10 s for the socket of {kind}')
        time.sleep(.01)
    time.sleep(.2)
    return p


def host_cost(kind, fmt, rw, image, work, option=''):
    """CPU microseconds per request of the server, over one fio run at QD32."""
    sock = f'{guest.SHM}/host.sock'
    p = host_server(kind, fmt, image, sock, 'write' in rw, option)
    try:
        a = cpu_seconds(p.pid)
        out = subprocess.run(['fio', '--name=j', '--ioengine=nbd', f'--uri=nbd+unix:///v?socket={sock}', f'--rw={rw}', '--bs=4k',
                              '--iodepth=32', '--norandommap', '--output-format=json', '--thread', *work], stdout=subprocess.PIPE,
                             stderr=subprocess.STDOUT, text=True, timeout=60, cwd='/tmp').stdout
        b = cpu_seconds(p.pid)
        job = json.loads(out[out.index('{'):])['jobs'][0]
        return (b - a) * 1e6 / max(1, job['read' if 'read' in rw else 'write']['total_ios'])
    finally:
        p.terminate()
        p.wait(20)


TIMED = ['--size=512M', '--time_based', '--runtime=2']
FRESH = 4 << 30
ONCE = [f'--size={FRESH}', '--io_size=80M', '--end_fsync=1']  # 20,480 writes; six in seven find no cluster


def new_image():
    return guest.fresh('host', FRESH, 0)


def bench_host(_):
    """Ours and the peer's in turn. `fresh`: an empty qcow2 for each run; the flush at its end counts."""
    raw, q2 = guest.disks()
    safe = []
    for fmt, rw, name, image in (('raw', 'randread', 'raw', raw), ('raw', 'randwrite', 'raw', raw), ('qcow2', 'randread', 'qcow2', q2),
                                 ('qcow2', 'randwrite', 'qcow2', q2), ('qcow2', 'randwrite', 'fresh', None)):
        ours, theirs = [], []
        for _ in range(9):
            ours.append(host_cost('ours', fmt, rw, image or new_image(), TIMED if image else ONCE))
            theirs.append(host_cost('qsd', fmt, rw, image or new_image(), TIMED if image else ONCE))
            if not image:
                safe.append(host_cost('ours', fmt, rw, new_image(), ONCE, ',restart-safe=on'))
        o, t = statistics.median(ours), statistics.median(theirs)
        report(f'cpu.nbd.{rw}.4k.qd32.unix.{name}', 'host', 'host', '-', o, 'us/req', ours, 'qemu-storage-daemon', t)
        report(f'ratio.nbd.{rw}.4k.qd32.unix.{name}', 'host', 'host', '-', statistics.median(a / b for a, b in zip(ours, theirs)), 'x',
               target='0.5')
    report('cpu.nbd.randwrite.4k.qd32.unix.fresh-restart-safe', 'host', 'host', '-', statistics.median(safe), 'us/req', safe)


# ---- The whole -------------------------------------------------------------------------------------------------

def build():
    os.makedirs(guest.OUT, exist_ok=True)
    here = os.path.dirname(os.path.abspath(__file__))
    subprocess.run(['gcc', '-O2', '-fPIC', '-shared', '-o', f'{guest.OUT}/icount.so', f'{here}/icount.c'], check=True)
    subprocess.run(['gcc', '-m32', '-nostdlib', '-static', '-no-pie', '-Wl,-Ttext=0x200000', '-Wl,--build-id=none', '-Wl,-e,start',
                    '-o', f'{guest.OUT}/floor.elf', f'{here}/floor.S'], check=True)
    subprocess.run(['aarch64-linux-gnu-gcc', '-nostdlib', '-static', '-Wl,-Ttext=0', '-Wl,--build-id=none', '-Wl,-e,0',
                    '-o', f'{guest.OUT}/floor.arm', f'{here}/floor_aarch64.S'], check=True)
    subprocess.run(['aarch64-linux-gnu-objcopy', '-O', 'binary', f'{guest.OUT}/floor.arm', f'{guest.OUT}/floor.img'], check=True)


def build_peer():
    source = os.path.join(guest.TOP, '../shared/baseline')
    if guest.linux_built() or not os.path.exists(source):
        return
    shutil.copytree(source, guest.BASELINE, dirs_exist_ok=True)
    r = subprocess.run(['bash', './build-linux-vm.sh'], cwd=guest.BASELINE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if r.returncode:
        print(f'the Linux VM cannot be built here, so no peer: {r.stdout[-300:]}')


def check():
    """Instruction counts against the committed ones."""
    want = json.load(open(EXPECTED))
    bad = 0
    for r in results:
        w = want.get(r['name'])
        if w is None:
            continue
        off = r['value'] / w - 1
        bad += abs(off) > TOLERANCE
        print(f'{r["name"]:44} {r["value"]:12,.1f} expected {w:12,.1f} {off:+.1%} {"OUT" if abs(off) > TOLERANCE else "ok"}')
    return bad


def main():
    p = argparse.ArgumentParser()
    p.add_argument('--check', action='store_true')
    p.add_argument('--hot', action='store_true')
    p.add_argument('--no-peer', action='store_true')
    p.add_argument('--only', default='size,boot,insn,open,mem,host')
    p.add_argument('--inside', action='store_true', help=argparse.SUPPRESS)
    o = p.parse_args()
    if not o.inside:
        build()
        if not (o.no_peer or o.check or o.hot):
            build_peer()
        return subprocess.run(['unshare', '-rn', sys.executable, os.path.abspath(__file__), '--inside', *sys.argv[1:]]).returncode
    guest.tap()
    try:
        if o.hot:
            bench_hot()
            return 0
        peer = guest.linux_built() and not (o.no_peer or o.check)
        for part in (['insn'] if o.check else o.only.split(',')):
            globals()[f'bench_{part}'](peer)
    finally:
        guest.drop_disks()
    if o.check:
        return 1 if check() else 0
    with open(os.path.join(guest.TOP, 'build/bench.json'), 'w') as f:
        json.dump(results, f, indent=1)
    return 0


if __name__ == '__main__':
    sys.exit(main())
