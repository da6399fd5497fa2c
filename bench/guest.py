# SPDX-License-Identifier: BSD-2-Clause
"""Guests and servers under measurement. Everything runs inside `unshare -rn` with one tap; the guest is 10.0.2.15."""
import mmap
import os
import shutil
import struct
import subprocess
import sys
import time

sys.path.insert(0, '/usr/lib/python3/dist-packages')
import nbd  # noqa: E402

TOP = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
OUT = os.path.join(TOP, 'build/bench')
FIRMWARE = os.path.join(TOP, 'build/x86_64/strongroom.elf')
FIRMWARE_ARM = os.path.join(TOP, 'build/aarch64/strongroom.img')
DEBUG = os.path.join(TOP, 'build/x86_64/strongroom.debug.elf')
HOST = os.path.join(TOP, 'build/host/strongroom')
BASELINE = os.path.join(TOP, 'build/baseline')
ADDRESS = '10.0.2.15'
SHM = '/dev/shm/strongroom-bench' + TOP.replace('/', '-')
SIZE = 512 << 20
PATIENCE = 90


def tap():
    """Once, inside the network namespace."""
    for words in ('link set lo up', 'tuntap add tap0 mode tap vnet_hdr', 'addr add 10.0.2.2/24 dev tap0', 'link set tap0 up'):
        subprocess.run(['ip', *words.split()], check=True)


def disks():
    """The baseline's disks: a filled raw one, the same as qcow2, both in memory."""
    os.makedirs(SHM, exist_ok=True)
    raw, q2 = f'{SHM}/raw.img', f'{SHM}/q2.img'
    if not os.path.exists(raw):
        import random
        block = random.Random(1).randbytes(1 << 20)
        with open(raw + '.new', 'wb') as f:
            for i in range(SIZE >> 20):
                f.write(i.to_bytes(8, 'little') + block[8:])
        os.rename(raw + '.new', raw)
    if not os.path.exists(q2):
        subprocess.run(['qemu-img', 'convert', '-f', 'raw', '-O', 'qcow2', raw, q2], check=True)
        os.truncate(q2, SIZE + (64 << 20))
    return raw, q2


def fresh(name, size=SIZE, spare=64 << 20):
    """An empty qcow2 image, with room to be filled."""
    os.makedirs(SHM, exist_ok=True)
    path = f'{SHM}/{name}.img'
    subprocess.run(['qemu-img', 'create', '-q', '-f', 'qcow2', path, str(size)], check=True)
    if spare:
        os.truncate(path, size + spare)
    return path


def drop_disks():
    shutil.rmtree(SHM, ignore_errors=True)


class Counter:
    """The shared file of bench/icount.c."""

    def __init__(self, low=0, high=0, hot=False):
        os.makedirs(SHM, exist_ok=True)
        self.path = f'{SHM}/count.{os.getpid()}.{time.time_ns()}'
        self.hot = hot
        self.words = ['-plugin', f'{OUT}/icount.so,out={self.path},low={low:x},high={high:x}' + (',hot=on' if hot else '')]
        self.map = None

    def _open(self):
        if not self.map:
            fd = os.open(self.path, os.O_RDONLY)
            self.map = mmap.mmap(fd, 0, prot=mmap.PROT_READ)
            os.close(fd)
        return self.map

    def read(self):
        """(all instructions, those of our image)"""
        return struct.unpack('<2Q', self._open()[:16])

    def blocks(self):
        m = self._open()
        n = struct.unpack('<Q', m[24:32])[0]
        return list(struct.iter_unpack('<3Q', m[64:64 + 24 * n]))

    def close(self):
        if os.path.exists(self.path):
            os.unlink(self.path)


class Guest:
    """A QEMU under TCG with the tap. `words`: all beyond what every guest here has."""

    def __init__(self, words, machine='q35', mem=64, cpu='max', counter=None, net=True):
        pci = not machine.startswith('microvm')
        bus = 'pci' if pci else 'device'
        a = ['qemu-system-aarch64' if machine.startswith('virt') else 'qemu-system-x86_64', '-accel', 'tcg', '-M', machine, '-cpu', cpu, '-smp', '1', '-m', str(mem), '-nodefaults',
             '-no-user-config', '-display', 'none', '-no-reboot', '-serial', 'stdio']
        if not pci:
            a += ['-global', 'virtio-mmio.force-legacy=false']
        if net:
            a += ['-netdev', 'tap,id=n0,ifname=tap0,script=no,downscript=no,vhost=off', '-device', f'virtio-net-{bus},netdev=n0']
        a += [w.replace('@BUS', bus) for w in words] + (counter.words if counter else [])
        self.start = time.time()
        self.proc = subprocess.Popen(a, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        os.set_blocking(self.proc.stdout.fileno(), False)
        self.text = b''

    def console_until(self, word, timeout=PATIENCE):
        """Seconds from exec until `word` is on the console."""
        import select
        end = self.start + timeout
        while word not in self.text:
            left = end - time.time()
            if left <= 0 or self.proc.poll() is not None:
                raise RuntimeError(f'waited {timeout} s for {word}; console ends: {self.text[-500:]} {self.proc.stderr.read1(500)}'
                                   if self.proc.poll() is not None else f'waited {timeout} s for {word}: {self.text[-500:]}')
            if select.select([self.proc.stdout], [], [], min(left, .5))[0]:
                self.text += self.proc.stdout.read() or b''
        return time.time() - self.start

    def connect(self, export):
        h = nbd.NBD()
        h.set_export_name(export)
        h.connect_tcp(ADDRESS, '10809')
        return h

    def close(self):
        self.proc.kill()
        self.proc.wait()
        for f in (self.proc.stdin, self.proc.stdout, self.proc.stderr):
            f.close()


def monitor(path, command):
    """One command to QEMU's own monitor: its result."""
    import json
    import socket
    with socket.socket(socket.AF_UNIX) as s:
        s.settimeout(PATIENCE)
        s.connect(path)
        f = s.makefile('rw')
        f.readline()
        for name in ('qmp_capabilities', command):
            f.write(json.dumps({'execute': name}) + '\n')
            f.flush()
            reply = json.loads(f.readline())
            while 'event' in reply:
                reply = json.loads(f.readline())
        return reply['return']


def drive(i, path, extra=''):
    return ['-blockdev', f'driver=file,node-name=f{i},filename={path},discard=unmap,aio=threads', '-device',
            f'virtio-blk-@BUS,drive=f{i},serial=d{i}{extra}']


WORDS = ('--netdev driver=virtio-net,ip=10.0.2.15/24 --blockdev driver=virtio-blk,node-name=disk0,serial=d0 '
         '--blockdev driver=virtio-blk,node-name=disk1,serial=d1 --blockdev driver=qcow2,node-name=vol,file=disk1,read-only=on '
         '--nbd-server addr.type=inet,addr.host=0.0.0.0,addr.port=10809 '
         '--export type=nbd,id=raw,node-name=disk0,name=raw,writable=on --export type=nbd,id=qcow2,node-name=vol,name=qcow2')


def strongroom(machine='q35', mem=64, cpu='max', counter=None, net=True, more=()):
    raw, q2 = disks()
    image = FIRMWARE_ARM if machine.startswith('virt') else FIRMWARE
    g = Guest(['-kernel', image, '-append', WORDS, *drive(0, raw), *drive(1, q2), '-device', 'virtio-rng-@BUS', *more],
              machine, mem, cpu, counter, net)
    g.exports = {'raw': 'raw', 'qcow2': 'qcow2'}
    return g


def packed(counter=None):
    """The same with packed rings."""
    return strongroom(counter=counter, more=['-global', 'virtio-blk-pci.packed=on', '-global', 'virtio-net-pci.packed=on'])


def ahci(counter=None):
    """The same disks on q35's AHCI controller."""
    words, attached = WORDS.replace('driver=virtio-blk', 'driver=ahci'), []
    for i, path in enumerate(disks()):
        attached += ['-blockdev', f'driver=file,node-name=f{i},filename={path},discard=unmap,aio=threads', '-device',
                     f'ide-hd,drive=f{i},bus=ide.{i},serial=d{i}']
    g = Guest(['-kernel', FIRMWARE, '-append', words, *attached, '-device', 'virtio-rng-@BUS'], counter=counter)
    g.exports = {'raw': 'raw', 'qcow2': 'qcow2'}
    return g


FRESH = 3  # images to allocate in: each measurement takes one


def writing(counter=None, safe=False):
    """A storage VM whose qcow2 images are written: a full one, and fresh ones."""
    _, q2 = disks()
    words = '--netdev driver=virtio-net,ip=10.0.2.15/24 --nbd-server addr.type=inet,addr.host=0.0.0.0,addr.port=10809 '
    attached = []
    for i, path in enumerate([q2] + [fresh(f'fresh{i}') for i in range(FRESH)]):
        words += (f'--blockdev driver=qcow2,node-name=v{i},file.driver=virtio-blk,file.serial=d{i} --export '
                  f'type=nbd,id=v{i},node-name=v{i},name=v{i},writable=on,restart-safe={"on" if safe else "off"} ')
        attached += drive(i, path)
    g = Guest(['-kernel', FIRMWARE, '-append', words, *attached, '-device', 'virtio-rng-@BUS'], counter=counter)
    g.exports = {'qcow2': 'v0', **{f'fresh{i}': f'v{i + 1}' for i in range(FRESH)}}
    return g


def linux(tuned=False, counter=None):
    raw, q2 = disks()
    more = sum((drive(2 + i, fresh(f'fresh{i}')) for i in range(FRESH)), [])
    words = 'console=ttyS0 quiet loglevel=0 panic=-1 tsc=reliable random.trust_cpu=on rdinit=/init'
    if tuned:
        words += ' mitigations=off init_on_alloc=0'
    g = Guest(['-kernel', f'{BASELINE}/out/vmlinux', '-initrd', f'{BASELINE}/out/initrd.cpio', '-append', words, *drive(0, raw),
               *drive(1, q2), *more], 'q35', 256, 'qemu64' if tuned else 'max', counter)
    g.exports = {'raw': 'vda', 'qcow2': 'vdb', **{f'fresh{i}': f'vd{"cdefgh"[i]}' for i in range(FRESH)}}
    return g


def linux_built():
    return os.path.exists(f'{BASELINE}/out/vmlinux')


def wait_nbd(guest, export, timeout=PATIENCE):
    """Seconds from exec to a finished handshake, for a guest that prints nothing when it is ready."""
    import socket
    end = guest.start + timeout
    while time.time() < end:
        s = socket.socket()
        s.settimeout(.05)
        try:
            s.connect((ADDRESS, 10809))
            s.close()
            guest.connect(export).shutdown()
            return time.time() - guest.start
        except (OSError, nbd.Error):
            s.close()
        time.sleep(.02)
    raise RuntimeError(f'waited {timeout} s for NBD on {ADDRESS}')


def load(h, write, bs, qd, n, sequential=False, seed=5):
    """n requests, qd in flight; random unless sequential."""
    import random
    rnd = random.Random(seed)
    blocks = SIZE // bs
    bufs = [nbd.Buffer.from_bytearray(bytearray(os.urandom(bs))) for _ in range(qd)]
    flight, issued, done = {}, 0, 0
    free = list(range(qd))
    while done < n:
        while issued < n and free:
            slot = free.pop()
            off = (issued % blocks if sequential else rnd.randrange(blocks)) * bs
            flight[slot] = h.aio_pwrite(bufs[slot], off) if write else h.aio_pread(bufs[slot], off)
            issued += 1
        h.poll(-1)
        for slot, c in list(flight.items()):
            if h.aio_command_completed(c):
                del flight[slot]
                free.append(slot)
                done += 1
