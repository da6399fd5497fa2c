# SPDX-License-Identifier: BSD-2-Clause
"""The host form's NBD server under stock clients, over unix and TCP sockets, on files; and the nbd subcommand."""
import os
import random
import signal
import socket
import struct
import subprocess
import time

import pytest

import lib
from lib import Host, nbd, run

SIZE = 64 << 20


class Server(Host):
    """A host form with the given words only; .path is its unix socket."""

    def __init__(self, *args, wait=True):
        super().__init__(*args, server=False, wait=wait)

    path = None

    def uri(self, export=''):
        return f'nbd+unix:///{export}?socket={self.path}'

    def term(self):
        self.proc.send_signal(signal.SIGTERM)
        rc = self.status()
        assert rc == 0 and 'off: clean' in self.console(), f'status {rc}:\n{self.console()[-600:]}'


def serve(file, sock, *more, blockdev='', server='', export='writable=on', wait=True):
    s = Server('--blockdev', f'driver=file,node-name=f,filename={file},discard=unmap{blockdev}',
               '--blockdev', 'driver=raw,node-name=vol,file=f,discard=unmap',
               '--nbd-server', f'addr.type=unix,addr.path={sock}{server}',
               '--export', f'type=nbd,id=e,node-name=vol,name=vol,{export}', *more, wait=wait)
    s.path = sock
    return s


@pytest.fixture
def vol(tmp):
    lib.pattern_image(f'{tmp}/disk', SIZE)
    with serve(f'{tmp}/disk', f'{tmp}/s') as s:
        s.disk, s.tmp = f'{tmp}/disk', tmp
        yield s
        s.term()


# ---- tools ----

def test_nbdinfo(vol):
    out = run('nbdinfo', vol.uri('vol')).stdout
    assert f'export-size: {SIZE}' in out
    for word in ('flush', 'fua', 'trim', 'zero', 'multi_conn', 'cache', 'fast_zero', 'df'):
        assert f'can_{word}: true' in out, out
    assert 'base:allocation' in out and 'block_size_maximum: 33554432' in out
    assert 'export="vol"' in run('nbdinfo', '--list', vol.uri()).stdout


@pytest.mark.parametrize('options', [[], ['--connections=4', '--requests=64'], ['--request-size=33554432'],
                                     ['--synchronous'], ['--sparse=0', '--allocated']])
def test_nbdcopy(vol, options):
    run('nbdcopy', *options, vol.uri('vol'), f'{vol.tmp}/out')
    run('cmp', vol.disk, f'{vol.tmp}/out')
    lib.pattern_image(f'{vol.tmp}/in', SIZE, seed=7)
    run('nbdcopy', '--flush', *options, f'{vol.tmp}/in', vol.uri('vol'))
    run('cmp', f'{vol.tmp}/in', vol.disk)


def test_holes_stay_holes(vol):
    """What qemu-img says of the file and of the export is the same, and a copy is as sparse."""
    def zeroes(name):
        out = run('qemu-img', 'map', '--output=json', '-f', 'raw', name).stdout
        return sum(e['length'] for e in __import__('json').loads(out) if e['zero'])
    run('nbdcopy', vol.uri('vol'), f'{vol.tmp}/copy')
    assert zeroes(vol.uri('vol')) == zeroes(vol.disk) > SIZE // 2
    h = vol.connect('vol')
    h.zero(SIZE // 2, 0)
    assert zeroes(vol.uri('vol')) >= SIZE // 2
    h.trim(SIZE // 2, SIZE // 2)
    assert os.stat(vol.disk).st_blocks * 512 < 1 << 20


def test_qemu_io(vol):
    for ops in (['write -P 5 1000 70000', 'read -P 5 1000 70000'], ['write -z 1M 2M', 'read -P 0 1M 2M'],
                ['write -z -u 3M 1M', 'read -P 0 3M 1M'], ['write -f -P 6 511 3', 'read -P 6 511 3'],
                ['discard 8M 1M', 'flush', 'read 8M 1M'], ['write -P 1 0 32M', 'read -P 1 0 32M'],
                ['aio_write -P 2 0 1M', 'aio_write -P 3 1M 1M', 'aio_flush', 'read -P 3 1M 1M', 'read -P 2 0 1M']):
        out = run('qemu-io', '-f', 'raw', *sum((['-c', op] for op in ops), []), vol.uri('vol')).stdout
        assert 'failed' not in out and 'error' not in out.lower(), out


def test_qemu_img_convert_and_compare(vol):
    run('qemu-img', 'convert', '-f', 'raw', '-O', 'qcow2', vol.uri('vol'), f'{vol.tmp}/q')
    run('qemu-img', 'compare', '-f', 'qcow2', '-F', 'raw', f'{vol.tmp}/q', vol.uri('vol'))
    lib.pattern_image(f'{vol.tmp}/in', SIZE, seed=9)
    run('qemu-img', 'convert', '-n', '-f', 'raw', '-O', 'raw', f'{vol.tmp}/in', vol.uri('vol'))
    run('cmp', f'{vol.tmp}/in', vol.disk)


@pytest.mark.parametrize('bs,qd', [('512', 4), ('4k', 32), ('128k', 8), ('1m', 64)])
def test_fio_verifies(vol, bs, qd):
    run('fio', '--name=v', '--ioengine=nbd', f'--uri={vol.uri("vol")}', '--rw=randwrite', f'--bs={bs}', f'--iodepth={qd}',
        '--size=32M', '--verify=crc32c', '--do_verify=1', '--verify_fatal=1', '--randrepeat=1', cwd=vol.tmp)


# ---- libnbd: what the tools do not say ----

@pytest.mark.parametrize('structured', [False, True])
def test_random_requests_against_a_model(vol, structured):
    rnd = random.Random(5)
    model = bytearray(open(vol.disk, 'rb').read())
    h = vol.connect('vol', request_structured_replies=structured)
    for _ in range(300):
        n = rnd.randrange(1, rnd.choice([600, 9000, 900000]))
        at = rnd.randrange(SIZE - n)
        op = rnd.randrange(5)
        if op == 0:
            data = rnd.randbytes(n)
            h.pwrite(data, at, rnd.choice([0, nbd.CMD_FLAG_FUA]))
            model[at:at + n] = data
        elif op == 1:
            h.zero(n, at, rnd.choice([0, nbd.CMD_FLAG_NO_HOLE]))
            model[at:at + n] = bytes(n)
        elif op == 2:
            h.flush()
            h.cache(n, at)
        else:
            flags = nbd.CMD_FLAG_DF if structured and rnd.randrange(2) else 0
            got = bytearray(n)
            h.pread_structured(n, at, lambda b, o, s, e: got.__setitem__(slice(o - at, o - at + len(b)), b), flags)
            assert got == model[at:at + n]
    h.shutdown()
    assert open(vol.disk, 'rb').read() == model


def test_sixteen_connections_at_once(vol):
    hs = [vol.connect('vol') for _ in range(16)]
    want, pending = {}, []
    for i in range(64 * 16):
        data = random.Random(i).randbytes(4096)
        want[i * 8192] = data
        h = hs[i % 16]
        pending.append((h, h.aio_pwrite(nbd.Buffer.from_bytearray(bytearray(data)), i * 8192)))
    for h, cookie in pending:
        while not h.aio_command_completed(cookie):
            assert h.poll(30000), 'waited 30 s for a write'
    hs[0].flush()
    for at, data in want.items():
        assert hs[1].pread(4096, at) == data


def test_read_only(tmp):
    lib.pattern_image(f'{tmp}/disk', 1 << 20)
    with serve(f'{tmp}/disk', f'{tmp}/s', blockdev=',read-only=on', export='writable=off') as s:
        h = s.connect('vol')
        assert h.is_read_only()
        h.set_strict_mode(0)
        with pytest.raises(nbd.Error, match='Operation not permitted'):
            h.pwrite(b'x' * 512, 0)
        s.term()


def test_odd_size(tmp):
    data = random.Random(1).randbytes(1000003)
    open(f'{tmp}/disk', 'wb').write(data)
    with serve(f'{tmp}/disk', f'{tmp}/s') as s:
        h = s.connect('vol')
        assert h.get_size() == len(data)
        assert h.pread(4003, 996000) == data[996000:]
        h.pwrite(b'q' * 777, len(data) - 777)
        h.flush()
        assert open(f'{tmp}/disk', 'rb').read() == data[:-777] + b'q' * 777
        s.term()


def test_direct_on_disk():
    """O_DIRECT where the build lies, if that file system has it."""
    path = os.path.join(lib.BUILD, f'direct.{os.getpid()}')
    sock = path + '.sock'
    try:
        data = random.Random(1).randbytes(1 << 20)
        open(path, 'wb').write(data)
        try:
            os.close(os.open(path, os.O_RDWR | os.O_DIRECT))
        except OSError:
            pytest.skip('no O_DIRECT here')
        with serve(path, sock, blockdev=',cache.direct=on') as s:
            assert s.connect('vol').get_block_size(nbd.SIZE_MINIMUM) == 1  # aligned below
            h = s.connect('vol', request_block_size=False)  # so any alignment will do
            assert h.pread(70001, 99) == data[99:70100]
            h.pwrite(b'q' * 777, 4321, nbd.CMD_FLAG_FUA)
            assert h.pread(1000, 4200) == data[4200:4321] + b'q' * 777 + data[5098:5200]
            s.term()
    finally:
        for p in (path, sock):
            if os.path.exists(p):
                os.unlink(p)


# ---- clients that misbehave; others notice nothing ----

def raw_client(path, go=True):
    s = socket.socket(socket.AF_UNIX)
    s.settimeout(20)
    s.connect(path)
    assert len(s.recv(18, socket.MSG_WAITALL)) == 18
    if go:
        s.sendall(struct.pack('>I', 3) + struct.pack('>QII', 0x49484156454F5054, 1, 3) + b'vol')
        assert len(s.recv(10, socket.MSG_WAITALL)) == 10
    return s


def request(type_, offset, length, cookie=1, flags=0):
    return struct.pack('>IHHQQI', 0x25609513, flags, type_, cookie, offset, length)


def test_half_a_payload_then_no_more(vol):
    """A write that did not arrive whole is not acknowledged."""
    s = raw_client(vol.path)
    s.sendall(request(1, 0, 1 << 20) + bytes(1000))
    s.shutdown(socket.SHUT_WR)
    reply = s.recv(16, socket.MSG_WAITALL)
    assert reply == b'' or struct.unpack('>II', reply[:8])[1] != 0


def test_slow_and_dead_clients_starve_nobody(vol):
    slow = []
    for i in range(20):
        s = raw_client(vol.path)
        s.sendall(b''.join(request(0, j << 16, 1 << 16, j) for j in range(100)))  # and never reads
        slow.append(s)
    for i in range(5):
        s = raw_client(vol.path, go=False)
        s.send(b'\0')  # and says no more
        slow.append(s)
    t = time.time()
    h = vol.connect('vol')
    for i in range(200):
        h.pwrite(bytes([i]) * 4096, i * 4096)
        assert h.pread(4096, i * 4096) == bytes([i]) * 4096
    assert time.time() - t < 20
    for s in slow[:10]:
        s.close()
    h.flush()
    assert h.pread(4096, 0) == bytes(4096)


def test_killed_client(vol):
    p = subprocess.Popen(['fio', '--name=k', '--ioengine=nbd', f'--uri={vol.uri("vol")}', '--rw=randwrite', '--bs=64k',
                          '--iodepth=64', '--size=32M', '--time_based', '--runtime=30'],
                         stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=vol.tmp)
    time.sleep(1)
    p.kill()
    p.wait()
    h = vol.connect('vol')
    h.pwrite(b'z' * 4096, 0)
    assert h.pread(4096, 0) == b'z' * 4096


def test_garbage(vol):
    rnd = random.Random(11)
    h = vol.connect('vol')
    for i in range(100):
        s = raw_client(vol.path, go=i & 1)
        try:
            s.sendall(rnd.randbytes(rnd.randrange(1, 3000)))
        except OSError:
            pass
        s.close()
    assert len(h.pread(4096, 0)) == 4096


def test_time_out_and_connection_limit(tmp):
    lib.pattern_image(f'{tmp}/disk', 1 << 20)
    with serve(f'{tmp}/disk', f'{tmp}/s', server=',handshake-max-seconds=1,max-connections=3') as s:
        one = raw_client(f'{tmp}/s', go=False)
        t = time.time()
        assert one.recv(1) == b'' and .5 < time.time() - t < 10
        hs = [s.connect('vol') for _ in range(3)]
        with pytest.raises(nbd.Error):
            s.connect('vol')
        assert len(hs[2].pread(512, 0)) == 512
        hs[0].shutdown()
        s.wait('a place', lambda: raw_ok(f'{tmp}/s'))
        s.term()


def raw_ok(path):
    try:
        raw_client(path).close()
        return True
    except (OSError, AssertionError):
        return False


# ---- addresses, and errors at start ----

@pytest.mark.parametrize('host', ['127.0.0.1', '0.0.0.0', 'localhost', '::1', '::'])
def test_tcp(tmp, host):
    lib.pattern_image(f'{tmp}/disk', 4 << 20)
    port = lib.free_port()
    try:
        socket.socket(socket.AF_INET6).bind(('::1', 0))
    except OSError:
        if ':' in host:
            pytest.skip('no IPv6 here')
    s = Server('--blockdev', f'driver=file,node-name=f,filename={tmp}/disk', '--nbd-server',
               f'addr.type=inet,addr.host={host},addr.port={port}', '--export',
               'type=nbd,id=e,node-name=f,name=vol')
    with s:
        to = '[::1]' if host == '::1' else 'localhost'
        run('nbdcopy', f'nbd://{to}:{port}/vol', f'{tmp}/out')
        run('cmp', f'{tmp}/disk', f'{tmp}/out')
        s.term()


WRONG = {
    'no such file': (['--blockdev', 'driver=file,node-name=f,filename=/nowhere/x'],
                     "Could not open '/nowhere/x': No such file or directory"),
    'a directory': (['--blockdev', 'driver=file,node-name=f,filename=/tmp,read-only=on'], 'A regular file was expected'),
    'not a device': (['--blockdev', 'driver=host_device,node-name=f,filename=/etc/passwd,read-only=on'], 'host_device'),
    'bad aio': (['--blockdev', 'driver=file,node-name=f,filename=/etc/passwd,aio=nosuch'], 'nosuch'),
    'path in no folder': (['--nbd-server', 'addr.type=unix,addr.path=/nowhere/s'], '/nowhere/s'),
    'path too long': (['--nbd-server', 'addr.type=unix,addr.path=/' + 'x' * 200], 'too long'),
    'bad address': (['--nbd-server', 'addr.type=inet,addr.host=no.such.host.invalid,addr.port=1'], 'no.such.host.invalid'),
    'kind of address': (['--nbd-server', 'addr.type=carrier-pigeon'], 'carrier-pigeon'),
    'no path': (['--nbd-server', 'addr.type=unix'], 'path'),
    'limit': (['--nbd-server', 'addr.type=unix,addr.path=/tmp/x,max-connections=many'], 'max-connections'),
    'export without server': (['--blockdev', 'driver=null-co,node-name=n', '--export', 'type=nbd,id=e,node-name=n'],
                              'NBD server not running'),
}


@pytest.mark.parametrize('what', WRONG)
def test_errors_at_start(what):
    words_, mentions = WRONG[what]
    with Server(*words_, wait=False) as s:
        rc = s.status()
        errors = [line for line in s.console().splitlines() if 'error: ' in line]
        assert rc == 3 and len(errors) == 1 and mentions in errors[0], s.console()
        assert 'error: ' + words_[-2] in errors[0] and 'ready:' not in s.console()


def test_port_in_use(tmp):
    with socket.socket() as taken:
        taken.bind(('127.0.0.1', 0))
        taken.listen()
        addr = f'addr.type=inet,addr.host=127.0.0.1,addr.port={taken.getsockname()[1]}'
        with Server('--nbd-server', addr, wait=False) as s:
            assert s.status() == 3
            assert f'error: --nbd-server {addr}: Failed to find an available port: Address already in use' in s.console()


def test_two_exports_of_one_name(tmp):
    with Server('--blockdev', 'driver=null-co,node-name=n', '--nbd-server', f'addr.type=unix,addr.path={tmp}/s', '--export',
                'type=nbd,id=a,node-name=n', '--export', 'type=nbd,id=b,node-name=n', wait=False) as s:
        assert s.status() == 3
        assert "NBD server already has export named 'n'" in s.console()


# ---- the nbd subcommand ----

def test_subcommand(tmp):
    lib.pattern_image(f'{tmp}/a,b', 4 << 20)  # a comma in the name
    s = Server('nbd', '-t', '-e', '5', '-k', f'{tmp}/s', f'{tmp}/a,b')
    s.path = f'{tmp}/s'
    with s:
        h = s.connect('')  # the empty name
        assert h.get_size() == 4 << 20 and not h.is_read_only()
        h.pwrite(b'x' * 512, 0, nbd.CMD_FLAG_FUA)
        assert open(f'{tmp}/a,b', 'rb').read(512) == b'x' * 512
        s.term()
        assert not os.path.exists(f'{tmp}/s')


def test_subcommand_tcp_read_only_named(tmp):
    lib.pattern_image(f'{tmp}/disk', 1 << 20)
    port = lib.free_port()
    with Server('nbd', '-r', '-b', '127.0.0.1', '-p', str(port), '-x', 'vol', '--format=raw', f'{tmp}/disk') as s:
        run('nbdcopy', f'nbd://127.0.0.1:{port}/vol', f'{tmp}/out')
        run('cmp', f'{tmp}/disk', f'{tmp}/out')
        assert 'is_read_only: true' in run('nbdinfo', f'nbd://127.0.0.1:{port}/vol').stdout
        s.term()


@pytest.mark.parametrize('args,rc', [([], 3), (['a', 'b'], 3), (['-z', 'a'], 3), (['-k', 's', '-p', '1', 'a'], 3),
                                     (['--help'], 0)])
def test_subcommand_usage(args, rc):
    p = run(lib.HOST, 'nbd', *args, check=False)
    assert p.returncode == rc and 'usage: strongroom nbd' in p.stdout


def test_quit_answers_what_is_under_way(tmp):
    """SIGTERM with 64 writes in flight: each is acknowledged and on the disk, or refused; nothing between."""
    lib.pattern_image(f'{tmp}/disk', SIZE)
    with serve(f'{tmp}/disk', f'{tmp}/s') as s:
        c = raw_client(s.path)
        for i in range(64):
            c.sendall(request(1, i << 16, 1 << 16, i) + bytes([i + 1]) * (1 << 16))
        s.proc.send_signal(signal.SIGTERM)
        got = b''
        while True:
            try:
                b = c.recv(65536)
            except ConnectionResetError:
                break
            if not b:
                break
            got += b
        assert s.status() == 0
        data = open(f'{tmp}/disk', 'rb').read()
        for at in range(0, len(got) - 15, 16):
            error, cookie = struct.unpack('>4xIQ', got[at:at + 16])
            if not error:
                assert data[cookie << 16:(cookie + 1) << 16] == bytes([cookie + 1]) * (1 << 16)
            else:
                assert error == 108


# ---- clients that take and give nothing ----

def small(tmp, monkeypatch, mem):
    monkeypatch.setenv('STRONGROOM_MEM', mem)
    lib.pattern_image(f'{tmp}/disk', SIZE)
    return serve(f'{tmp}/disk', f'{tmp}/s')


def verified_io(h, disk):
    data = open(disk, 'rb').read()
    for i in range(50):
        assert bytes(h.pread(4096, i * 12288)) == data[i * 12288:i * 12288 + 4096]


@pytest.mark.parametrize('mem, least', [('16M', 20), ('64M', 100)])
def test_non_readers_and_idle_ones(tmp, monkeypatch, mem, least):
    """As many as are let in, each with long reads that it never takes: one that was there goes on."""
    with small(tmp, monkeypatch, mem) as s:
        h = s.connect('vol')
        others = []
        try:
            while len(others) < 99:
                others.append(raw_client(s.path))
        except (OSError, struct.error, AssertionError):
            pass  # refused
        assert len(others) + 1 >= least, f'{len(others)} let in'
        verified_io(h, f'{tmp}/disk')
        for c in others:
            c.sendall(b''.join(request(0, 0, 32 << 20, i) for i in range(6)))
        time.sleep(.5)
        verified_io(h, f'{tmp}/disk')
        for c in others:
            c.close()
        s.term()


@pytest.mark.parametrize('mem', ['12M', '64M'])
def test_silent_handshakes(tmp, monkeypatch, mem):
    """Sixty that say nothing, or stop in the middle of an option, short or long."""
    said = [b'', bytes([0, 0, 0, 3]), bytes([0, 0, 0, 3]) + b'IHAVEOPT' + struct.pack('>II', 7, 1000) + bytes(500),
            bytes([0, 0, 0, 3]) + b'IHAVEOPT' + struct.pack('>II', 77, 300000) + bytes(1000)]
    with small(tmp, monkeypatch, mem) as s:
        silent = []
        for i in range(60):
            c = socket.socket(socket.AF_UNIX)
            c.connect(s.path)
            try:
                c.sendall(said[i % 4])
            except OSError:
                pass  # refused
            silent.append(c)
        time.sleep(.4)
        begin = time.time()
        h = s.connect('vol')
        verified_io(h, f'{tmp}/disk')
        assert time.time() - begin < 1
        for c in silent:
            c.close()
        s.term()
