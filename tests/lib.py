# SPDX-License-Identifier: BSD-2-Clause
"""What every test of a running Strongroom shares: the firmware in QEMU (VM), the host form (Host), stock clients.

Nothing here waits without an end: each wait has a time-out that says what it waited for and shows the console.
Ports are picked free at run time; only processes started here are ended, by pid.
"""
import atexit
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, '/usr/lib/python3/dist-packages')
import nbd  # noqa: E402

TOP = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
BUILD = os.environ.get('STRONGROOM_BUILD', os.path.join(TOP, 'build'))
IMAGE = {'x86_64': os.path.join(BUILD, 'x86_64/strongroom.elf'),
         'aarch64': os.path.join(BUILD, 'aarch64/strongroom.img')}
HOST = os.environ.get('STRONGROOM_HOST', os.path.join(BUILD, 'host/strongroom'))
SERVER = '--nbd-server addr.type=inet,addr.host=0.0.0.0,addr.port=10809 '
# What the contract names, and what differs between the machines: (machine, extra arguments). Those of Arm
# begin with `virt` or `sbsa`.
MACHINES = {
    'q35': ('q35', []),
    'q35-qboot': ('q35', ['-bios', 'qboot.rom']),
    'microvm': ('microvm', []),
    'microvm-noacpi': ('microvm,acpi=off', []),
    'microvm-pcie': ('microvm,pcie=on', []),
    'virt': ('virt', []),
    'virt-gic3': ('virt,gic-version=3', []),
    'virt-el2': ('virt,virtualization=on', []),
    'sbsa': ('sbsa-ref', []),
}
PATIENCE = float(os.environ.get('STRONGROOM_PATIENCE', '60'))


def arch_of(machine):
    return 'aarch64' if machine.startswith(('virt', 'sbsa')) else 'x86_64'


def crash_image(machine='q35'):
    path, ext = os.path.splitext(IMAGE[arch_of(machine)])
    return path + '-crash' + ext


def free_port():
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        return s.getsockname()[1]


def run(*words, check=True, timeout=PATIENCE * 2, **kw):
    """A client program; its output is in the failure."""
    p = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                       timeout=timeout, **kw)
    assert not check or p.returncode == 0, f'{" ".join(words)}: status {p.returncode}\n{p.stdout}'
    return p


def scratch(prefix='strongroom.'):
    """A folder in memory, gone when the tests are over."""
    d = tempfile.mkdtemp(prefix=prefix, dir='/dev/shm' if os.path.isdir('/dev/shm') else None)
    atexit.register(shutil.rmtree, d, True)
    return d


class Qmp:
    """A QMP client; events are kept."""

    def __init__(self, path, timeout=PATIENCE):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(timeout)
        self.sock.connect(path)
        self.file = self.sock.makefile('rw')
        self.events = []
        self.greeting = json.loads(self.file.readline())
        assert 'return' in self('qmp_capabilities')

    def __call__(self, command, **args):
        msg = {'execute': command}
        if args:
            msg['arguments'] = {k.replace('_', '-'): v for k, v in args.items()}
        return self.raw(json.dumps(msg))

    def raw(self, text):
        self.file.write(text + '\n')
        self.file.flush()
        while True:
            line = self.file.readline()
            assert line, f'monitor closed; sent {text}'
            reply = json.loads(line)
            if 'event' not in reply:
                return reply
            self.events.append(reply)

    def close(self):
        self.file.close()
        self.sock.close()


class Served:
    """What the firmware and the host form have in common for a client."""
    proc = None

    def connect(self, export='', **set_):
        h = nbd.NBD()
        h.set_export_name(export)
        h.add_meta_context(nbd.CONTEXT_BASE_ALLOCATION)
        for k, v in set_.items():
            getattr(h, 'set_' + k)(v)
        h.connect_uri(self.uri(export)) if self.unix else h.connect_tcp('127.0.0.1', str(self.port))
        return h

    def wait(self, what, test, timeout=PATIENCE):
        end = time.time() + timeout
        while True:
            r = test()
            if r:
                return r
            tail = self.console()[-600:]
            assert self.proc.poll() is None, f'gone (status {self.proc.poll()}) before {what}:\n{tail}'
            assert time.time() < end, f'waited {timeout} s for {what}:\n{tail}'
            time.sleep(.004)

    def ready(self):
        try:
            self.wait('the ready line', lambda: re.search(r'ready: \d+ exports\n', self.console()))
        except AssertionError:
            self.kill()  # the caller may not hold us yet
            raise
        return self

    def status(self, timeout=PATIENCE):
        try:
            return self.proc.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(f'waited {timeout} s for the end:\n{self.console()[-600:]}')

    def quit(self):
        q = self.qmp()
        assert q('quit') == {'return': {}}
        rc = self.status()
        assert rc == 0 and 'off: clean' in self.console(), f'status {rc}:\n{self.console()[-600:]}'

    def cpu_seconds(self):
        with open(f'/proc/{self.proc.pid}/stat') as f:
            user, system = f.read().rpartition(') ')[2].split()[11:13]
        return (int(user) + int(system)) / os.sysconf('SC_CLK_TCK')

    def kill(self):
        if self.proc and self.proc.poll() is None:
            self.proc.kill()
            self.proc.wait()

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        if exc[0]:
            sys.stdout.write('console:\n' + self.console()[-3000:] + '\n')
        self.kill()


class VM(Served):
    """One storage VM. disks: image files (or complete -blockdev strings without node-name), serials d0, d1, ...
    legacy: the virtio-mmio that QEMU has when it is not told otherwise."""
    unix = False

    def __init__(self, append, disks=(), machine='q35', mem=64, cpu='max', kernel=None,
                 disk='virtio-blk', disk_options='', net='user', nic_options='', bus=None, extra=(), wait=True,
                 legacy=False):
        self.dir = scratch()
        self.port = free_port()
        m, more = MACHINES.get(machine, (machine, []))
        arch = arch_of(machine)
        self.pci = bus == 'pci' if bus else not m.startswith('microvm') or 'pcie=on' in m
        bus = 'pci' if self.pci else 'device'
        status = ['-device', 'isa-debug-exit,iobase=0xf4,iosize=4'] if arch == 'x86_64' else \
            ['-semihosting-config', 'enable=on,target=native']
        d = self.dir
        a = ['qemu-system-' + arch, '-accel', 'tcg', '-M', m, '-cpu', cpu, '-smp', '1', '-m', str(mem),
             '-nodefaults', '-no-user-config', '-display', 'none', '-no-reboot', '-serial', f'file:{d}/console',
             '-kernel', kernel or IMAGE[arch], '-append', append,
             '-chardev', f'socket,id=q,path={d}/qmp,server=on,wait=off', '-device', f'virtio-serial-{bus}',
             '-device', 'virtserialport,chardev=q,name=org.strongroom.qmp', '-device', f'virtio-rng-{bus}',
             *status, '-chardev', f'socket,id=hq,path={d}/qemu,server=on,wait=off', '-mon', 'chardev=hq,mode=control']
        if net == 'user':
            a += ['-netdev', f'user,id=n,hostfwd=tcp:127.0.0.1:{self.port}-:10809',
                  '-device', f'virtio-net-{bus},netdev=n{nic_options}']
        if not self.pci and not legacy:
            a += ['-global', 'virtio-mmio.force-legacy=false']
        for i, f in enumerate(disks):
            spec = f if '=' in f.split('/')[0] else f'driver=file,filename={f},discard=unmap'
            a += ['-blockdev', f'{spec},node-name=f{i}',
                  '-device', f'{disk}-{bus},drive=f{i},serial=d{i},id=disk{i}{disk_options}']
        self.words = a + more + list(extra)
        self.start = time.time()
        self.proc = subprocess.Popen(self.words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                     stderr=open(f'{d}/err', 'w'))
        if wait:
            self.ready()

    def console(self):
        p = f'{self.dir}/console'
        text = open(p, errors='replace').read() if os.path.exists(p) else ''
        err = open(f'{self.dir}/err').read()
        return text + (f'\n[QEMU: {err}]' if err else '')

    def uri(self, export=''):
        return f'nbd://127.0.0.1:{self.port}/{export}'

    def qmp(self):
        return Qmp(f'{self.dir}/qmp')

    def qemu(self):
        """QEMU's own monitor: pull cables, press buttons."""
        return Qmp(f'{self.dir}/qemu')


class Host(Served):
    """The host form. words: its options, without server and monitor, which are added; exports are reached by unix socket."""
    unix = True

    def __init__(self, *words, server=True, wait=True, program=None):
        self.dir = scratch()
        a = [program or HOST, *words]
        if server:
            a = [a[0], '--nbd-server', f'addr.type=unix,addr.path={self.dir}/nbd', *a[1:],
                 '--chardev', f'socket,id=q0,path={self.dir}/qmp,server=on,wait=off', '--monitor', 'chardev=q0']
        self.words = a
        self.proc = subprocess.Popen(a, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                     stderr=open(f'{self.dir}/err', 'w'))
        if wait:
            self.ready()

    def console(self):
        return open(f'{self.dir}/err', errors='replace').read()

    def uri(self, export=''):
        return f'nbd+unix:///{export}?socket={self.dir}/nbd'

    def qmp(self):
        return Qmp(f'{self.dir}/qmp')


def pattern_image(path, size, seed=1):
    """A raw file whose every sector names itself; some ranges are holes."""
    import random
    rnd = random.Random(seed)
    with open(path, 'wb') as f:
        f.truncate(size)
        for _ in range(max(4, size >> 21)):
            at, n = rnd.randrange(size >> 9), rnd.randrange(1, 256)
            f.seek(at << 9)
            f.write(b''.join((at + i).to_bytes(8, 'little') * 64 for i in range(min(n, (size >> 9) - at))))
    return path
