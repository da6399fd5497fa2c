# SPDX-License-Identifier: BSD-2-Clause
"""Siblings for the boot tests: the bridge, a storage VM that is joined to it, and guests with a stock Debian kernel.

A guest's only process is tests/boot/sibling/init.c, in an initramfs made here: it loads virtio_blk and takes orders from the serial line.
"""
import functools
import glob
import os
import re
import socket
import subprocess
import time

import lib

BRIDGE = os.path.join(lib.BUILD, 'bridge')
MIB = 1 << 20


# ---- The guest's file system -----------------------------------------------------------------------------------------------------------

def cpio(files):
    """newc: {name: (mode, bytes)}"""
    out = b''
    for i, (name, (mode, data)) in enumerate([*files.items(), ('TRAILER!!!', (0, b''))]):
        n = name.encode() + b'\0'
        fields = (i + 1, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(n), 0)
        head = b'070701' + b''.join(b'%08X' % f for f in fields) + n
        out += head + bytes(-len(head) % 4) + data + bytes(-len(data) % 4)
    return out


@functools.cache
def kernel():
    found = sorted(glob.glob('/boot/vmlinuz-*-cloud-amd64'))
    assert found, 'no kernel: package linux-image-cloud-amd64'
    return found[-1], found[-1].split('vmlinuz-')[1]


def modules(*wanted):
    """Files of kernel modules in order of loading; what is built in is left out."""
    top = f'/lib/modules/{kernel()[1]}'
    known = {os.path.basename(f)[:-3].replace('-', '_'): f for f in glob.glob(f'{top}/kernel/**/*.ko', recursive=True)}
    order = []

    def add(name):
        f = known.get(name.replace('-', '_'))
        if not f or f in order:
            return
        for d in re.findall(rb'\0(?:depends|softdep)=([^\0]*)', b'\0' + open(f, 'rb').read()):
            for x in d.decode().replace('pre:', ' ').replace(',', ' ').split():
                add(x)
        order.append(f)
    for w in wanted:
        add(w)
    return order


def libraries(program):
    return re.findall(r'(/\S+) \(', subprocess.run(['ldd', program], stdout=subprocess.PIPE, text=True, check=True).stdout)


@functools.cache
def initramfs():
    d = lib.scratch()
    init = f'{d}/init'
    lib.run('gcc', '-D_GNU_SOURCE', '-static', '-O1', '-pthread', '-o', init, f'{lib.TOP}/tests/boot/sibling/init.c')
    files = {x: (0o40755, b'') for x in ('proc', 'sys', 'dev', 'mod', 'sbin', 'lib', 'lib/x86_64-linux-gnu', 'lib64', 'mnt')}
    order = modules('virtio_pci', 'virtio_blk', 'crc32c_generic', 'ext4')
    for f in order:
        files['mod/' + os.path.basename(f)] = (0o100644, open(f, 'rb').read())
    files['mod/order'] = (0o100644, ''.join(f'/mod/{os.path.basename(f)}\n' for f in order).encode())
    for p in ('/sbin/mke2fs', '/sbin/e2fsck'):
        for f in [p, *libraries(p)]:
            files[f[1:]] = (0o100755, open(f, 'rb').read())
    files['init'] = (0o100755, open(init, 'rb').read())
    out = f'{d}/initramfs'
    with open(out, 'wb') as f:
        f.write(cpio(files))
    return out


# ---- The three of them -----------------------------------------------------------------------------------------------------------------

class Bridge:
    """names: of the siblings, whose sockets and memory are in a folder of its own."""

    def __init__(self, *names, size='128M', extra=()):
        self.dir, self.names, self.size = lib.scratch(), names, size
        a = [BRIDGE, '--relay', f'{self.dir}/relay']
        for n in names:
            a += ['--sibling', f'name={n},vhost={self.dir}/{n}.vhost,ivshmem={self.dir}/{n}.ivshmem,memory={self.dir}/{n}.memory,size={size}']
        self.words = [*a, *extra]
        self.proc = subprocess.Popen(self.words, stdin=subprocess.DEVNULL, stderr=open(f'{self.dir}/err', 'w'))
        self.until('its sockets', lambda: os.path.exists(f'{self.dir}/relay'))

    def until(self, what, test, timeout=lib.PATIENCE):
        end = time.time() + timeout
        while not test():
            assert self.proc.poll() is None, f'bridge gone: {self.errors()}'
            assert time.time() < end, f'bridge: waited {timeout} s for {what}: {self.errors()}'
            time.sleep(.005)

    def errors(self):
        return open(f'{self.dir}/err').read()

    def of_storage_vm(self, vectors=64):
        """Words of the storage VM's QEMU."""
        a = ['-chardev', f'socket,id=relay,path={self.dir}/relay', '-device', 'virtserialport,chardev=relay,name=org.strongroom.bridge']
        for n in self.names:
            a += ['-chardev', f'socket,id=iv-{n},path={self.dir}/{n}.ivshmem', '-device', f'ivshmem-doorbell,chardev=iv-{n},vectors={vectors}']
        return a

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        if exc[0]:
            print('bridge:\n' + self.errors()[-2000:])
        self.proc.terminate()
        try:
            self.proc.wait(5)
        except subprocess.TimeoutExpired:
            self.proc.kill()
            self.proc.wait()


class Sibling:
    """A guest; its disk is vda: ours, or what the words of `disk` say (then only the bridge's names and memory matter)."""

    def __init__(self, bridge, name, smp=1, queues=1, wait=True, extra=(), kernel_given=True, disk=None):
        self.dir = lib.scratch()
        d, b = self.dir, bridge.dir
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(f'{d}/line')
        listener.listen(1)
        listener.settimeout(lib.PATIENCE)
        self.words = [
            'qemu-system-x86_64', '-accel', 'tcg', '-M', 'q35,memory-backend=m', '-cpu', 'max', '-smp', str(smp), '-m', bridge.size,
            '-object', f'memory-backend-file,id=m,size={bridge.size},mem-path={b}/{name}.memory,share=on',
            '-nodefaults', '-no-user-config', '-display', 'none', '-serial', f'file:{d}/console',
            '-chardev', f'socket,id=line,path={d}/line', '-serial', 'chardev:line',
            '-chardev', f'socket,id=q,path={d}/qmp,server=on,wait=off', '-mon', 'chardev=q,mode=control',
            *(disk or ('-chardev', f'socket,id=c,path={b}/{name}.vhost,reconnect=1',
                       '-device', f'vhost-user-blk-pci,chardev=c,num-queues={queues}')), *extra]
        if kernel_given:
            self.words += ['-kernel', kernel()[0], '-initrd', initramfs(),
                           '-append', 'console=ttyS0 quiet panic=-1 no_timer_check tsc=reliable random.trust_cpu=on rdinit=/init']
        self.proc = subprocess.Popen(self.words, stdin=subprocess.DEVNULL, stderr=open(f'{d}/err', 'w'))
        self.line, _ = listener.accept()
        listener.close()
        self.line.settimeout(lib.PATIENCE * 2)
        self.file = self.line.makefile('rw')
        if wait:
            self.here()

    def here(self):
        assert self.answer('its first word') == 'ok here'
        return self

    def console(self):
        return ''.join(open(f'{self.dir}/{f}', errors='replace').read() for f in ('console', 'err') if os.path.exists(f'{self.dir}/{f}'))

    def wait(self, what, test, timeout=lib.PATIENCE):
        end = time.time() + timeout
        while not test():
            assert self.proc.poll() is None and time.time() < end, f'sibling: waited {timeout} s for {what}:\n{self.console()[-1500:]}'
            time.sleep(.02)

    def answer(self, what):
        try:
            text = self.file.readline()
        except TimeoutError:
            raise AssertionError(f'sibling: no answer to {what}:\n{self.console()[-1500:]}')
        assert text, f'sibling: gone before it answered {what}:\n{self.console()[-1500:]}'
        return text.strip()

    def ask(self, *words):
        self.file.write(' '.join(map(str, words)) + '\n')
        self.file.flush()
        return self.answer(words)

    def do(self, *words):
        """The rest of an answer that must be ok."""
        text = self.ask(*words)
        assert text.startswith('ok'), f'{words}: {text}\n{self.console()[-1500:]}'
        return text[3:]

    def qmp(self):
        return lib.Qmp(f'{self.dir}/qmp')

    def off(self):
        self.do('off')
        assert self.proc.wait(lib.PATIENCE) == 0

    def kill(self):
        if self.proc.poll() is None:
            self.proc.kill()
            self.proc.wait()

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        if exc[0]:
            print('sibling:\n' + self.console()[-2000:])
        self.kill()
