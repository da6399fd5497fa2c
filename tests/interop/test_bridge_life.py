# SPDX-License-Identifier: BSD-2-Clause
"""The bridge itself: its options, its files, its privileges, and the death of its worker at any moment."""
import os
import random
import re
import signal
import socket
import stat
import struct
import subprocess
import sys
import threading
import time

import pytest

from bridge_peers import (BRIDGE, DISCONNECTED, END, SET_CONFIG, SET_MEM_TABLE, UVA, VHOST, Bridge, FrontEnd, StorageVM, closed, until)


def run(*words):
    return subprocess.run([BRIDGE, *words], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=20)


def gone(pid):
    try:
        return open(f'/proc/{pid}/stat').read().split()[2] == 'Z'
    except FileNotFoundError:
        return True


def sibling(**change):
    words = {'name': 'a', 'vhost': '/x/v', 'ivshmem': '/x/i', 'memory': '/x/m', 'size': '1M', **change}
    return '--sibling', ','.join(f'{k}={v}' for k, v in words.items() if v is not None)


BAD_WORDS = [
    ((), '--relay PATH is needed'),
    (('--relay', '/x/r'), '--sibling is needed'),
    (('--relay',), '--relay: a value is needed'),
    (('--relay', ''), 'is empty or too long'),
    (('--relay', '/x' * 60), 'is empty or too long'),
    (('--what', 'x'), '--what: there is no such option'),
    (('--direct', '-1'), 'a number from 0 to 60000 is wanted'),
    (('--direct', '5x'), 'a number from 0'),
    (('--timeout', '99999999999'), 'a number from 0'),
    (('--relay', '/x/r', *sibling(), '--storage-vm'), '--storage-vm is followed by --'),
    (('--relay', '/x/r', *sibling(), '--', 'true'), '--storage-vm is followed by --'),
    (('--relay', '/x/r', *sibling(), '--storage-vm', '--'), '--storage-vm is followed by --'),
    (sibling(size='0'), 'size=0: a size up to 1T'),
    (sibling(size='1Mx'), 'a size up to 1T'),
    (sibling(size='2T'), 'a size up to 1T'),
    (sibling(size='-1'), 'a size up to 1T'),
    (sibling(size=None), 'are all needed'),
    (sibling(name=''), 'a name has 1 to 63 bytes'),
    (sibling(name='x' * 64), 'a name has 1 to 63 bytes'),
    (sibling(name='x\ny'), 'no blanks or control characters'),
    (sibling(colour='red'), "there is no 'colour'"),
    (('--sibling', 'name'), "'name' is no key=value"),
    (('--relay', '/x/r', *sibling(), *sibling()), "two are named 'a'"),
    (('--relay', '/x/r', *sibling(), *sibling(name='b')), "'a' and 'b' share a path"),
    (('--relay', '/x/r', *sibling()), 'memory of a: /x/m: No such file or directory'),
]


@pytest.mark.parametrize('words,sentence', BAD_WORDS)
def test_bad_words(words, sentence):
    p = run(*words)
    assert p.returncode == 1 and p.stderr.startswith('bridge: ') and sentence in p.stderr, p.stderr


def test_words(tmp):
    assert re.match(r'strongroom bridge \d', run('--version').stdout)
    text = run('--help').stdout
    page = open(f'{os.path.dirname(__file__)}/../../docs/strongroom-bridge.8').read().replace('\\-', '-')
    for option in re.findall(r'--[a-z-]+', text):
        assert option in page, f'{option} is not in the manual'
    for option in set(re.findall(r'--[a-z][a-z-]+', page)) - {'--export'}:  # the storage VM's
        assert option in text, f'{option} is not in --help'
    with Bridge(tmp, ('a,,b',)):  # a name with a comma
        assert os.path.exists(f'{tmp}/a,b.ram')


def test_memory_file(tmp):
    with Bridge(tmp, ('a',), '5k') as b:
        st = os.stat(f'{tmp}/a.ram')
        assert stat.S_IMODE(st.st_mode) == 0o600 and st.st_size == 8192
        inode = st.st_ino
    open(f'{tmp}/a.ram', 'r+b').write(b'memory')
    with Bridge(tmp, ('a',), '100k') as b:
        assert os.stat(f'{tmp}/a.ram').st_size == 128 << 10
    with Bridge(tmp, ('a',), '1k') as b:
        st = os.stat(f'{tmp}/a.ram')
        assert (st.st_size, st.st_ino) == (128 << 10, inode)
        with StorageVM(b) as vm:
            assert len(vm.device[0].memory) == 128 << 10
            assert vm.device[0].memory[:6] == b'memory'
    assert not [p for p in os.listdir(tmp) if not p.endswith(('.ram', '.err'))]  # sockets are gone


def test_paths_in_use(tmp):
    with Bridge(tmp):
        p = subprocess.run([BRIDGE, '--relay', f'{tmp}/relay', '--sibling',
                            f'name=a,vhost={tmp}/x,ivshmem={tmp}/y,memory={tmp}/z,size=1M'], capture_output=True, text=True, timeout=20)
        assert p.returncode == 1 and 'is in use by another process' in p.stderr
    stale = socket.socket(socket.AF_UNIX)
    stale.bind(f'{tmp}/relay')
    stale.close()  # as after a SIGKILL
    with Bridge(tmp) as b, StorageVM(b):
        FrontEnd(b, 'a').connect().realize()
    open(f'{tmp}/relay', 'w').close()
    with Bridge(tmp, wait=False) as b:
        assert b.proc.wait(20) == 1 and 'is there and no socket' in b.log()


def test_privileges(tmp):
    """Both parts have locked themselves in."""
    with Bridge(tmp) as b:
        for pid in (b.proc.pid, b.worker()):
            text = open(f'/proc/{pid}/status').read()
            assert re.search(r'^NoNewPrivs:\s1$', text, re.M) and re.search(r'^Seccomp:\s2$', text, re.M)
        filters = [int(re.search(r'Seccomp_filters:\s(\d)', open(f'/proc/{p}/status').read())[1]) for p in (b.proc.pid, b.worker())]
        assert filters == [1, 2]


def test_ends_when_asked(tmp):
    b = Bridge(tmp)
    worker = b.worker()
    assert b.close() == 0
    until('the worker to be gone', lambda: gone(worker))


def test_keeper_killed(tmp):
    """Nobody stays: siblings reconnect to the next bridge."""
    with Bridge(tmp) as b, StorageVM(b) as vm:
        f = FrontEnd(b, 'a').connect()
        f.realize()
        worker = b.worker()
        b.proc.kill()
        b.proc.wait()
        until('the worker to be gone', lambda: gone(worker))
        assert closed(f.sock)
        del vm


@pytest.mark.parametrize('direct', [0, 1000])
def test_worker_killed_at_random(tmp, direct):
    """Under traffic of both siblings: each message is done once, each answer comes once, no interrupt is lost."""
    rnd = random.Random(direct)
    failures = []

    def traffic(f, seed):
        try:
            for i in range(rounds):
                f.start(base=f.indexes()[1])
                for k in range(5):
                    f.tell(SET_CONFIG, struct.pack('<IIII', 0, 4, 0, i * 5 + k))
                    f.io(1 + k)
                assert f.stop() == f.indexes()[1]
        except BaseException as e:
            failures.append(repr(e))

    rounds = 600
    with Bridge(tmp, ('a', 'b'), '1M', '--direct', str(direct)) as b, StorageVM(b) as vm:
        fs = [FrontEnd(b, n).connect() for n in 'ab']
        threads = [threading.Thread(target=traffic, args=(f, i)) for i, f in enumerate(fs)]
        for f in fs:
            f.realize()
        for t in threads:
            t.start()
        kills = 0
        while any(t.is_alive() for t in threads):
            time.sleep(rnd.uniform(.05, .1))  # not so often that the keeper slows down
            try:
                b.kill_worker()
                kills += 1
            except (IndexError, ProcessLookupError):
                pass  # between two
        for t in threads:
            t.join()
        assert not failures, failures
        vm.check()
        assert kills > 5 and b.log().count('worker died (signal 9)') >= kills - 1
        assert not vm.heard(END) and not vm.heard(DISCONNECTED)
        for n in (0, 1):  # in order, none lost, none twice
            said = [struct.unpack_from('<I', x[3], 12)[0] for x in vm.heard(VHOST, n, SET_CONFIG)]
            assert said == list(range(5 * rounds))


def test_worker_killed_at_the_seams(tmp):
    """Before, while and after: sibling first, storage VM gone, both gone."""
    with Bridge(tmp) as b:
        b.kill_worker()
        vm = StorageVM(b)
        b.kill_worker()
        f = FrontEnd(b, 'a').connect()
        f.realize()
        f.start()
        b.kill_worker()
        f.io(4)
        vm.kill()
        b.kill_worker()
        f.submit(2)
        assert f.stop() == 4
        b.kill_worker()
        f.start(base=4)
        with StorageVM(b) as vm:
            until('six', lambda: f.indexes() == (6, 6))
            f.close()
            b.kill_worker()
            vm.wait_heard('DISCONNECTED', DISCONNECTED, 0)
            f.connect().realize()
            vm.check()


@pytest.mark.parametrize('closed_end', [False, True])
def test_nobody_reads_the_log(tmp, closed_end):
    """stderr is a full pipe, or one without a reader: lines are lost, nothing else."""
    r, w = os.pipe()
    os.set_blocking(w, False)
    try:
        while os.write(w, bytes(4096)):
            pass
    except BlockingIOError:
        pass
    os.set_blocking(w, True)
    if closed_end:
        os.close(r)
    with Bridge(tmp, stderr=w, wait=False) as b:
        vm = StorageVM(b)
        f = FrontEnd(b, 'a').connect()
        f.realize()
        f.start()
        worker = b.worker()
        b.kill_worker()
        f.io()
        vm.kill()
        vm = StorageVM(b)
        f.io()
        assert b.worker() != worker and b.proc.poll() is None
        vm.kill()


def test_storage_vm_changes_while_nobody_looks(tmp):
    """The end of the old one and the coming of the new one are seen at once."""
    with Bridge(tmp) as b:
        vm = StorageVM(b)
        f = FrontEnd(b, 'a').connect()
        f.realize()
        f.start()
        for i in range(3):
            f.io()
            worker = b.worker()
            os.kill(worker, signal.SIGSTOP)
            vm.kill()
            threading.Timer(.1, os.kill, (worker, signal.SIGKILL if i % 2 else signal.SIGCONT)).start()
            vm = StorageVM(b)
            f.io()
        vm.check()
        vm.kill()


VM = '''
import os, sys, time
open(sys.argv[1], "a").write(f"{os.getpid()} ")
while True:
    time.sleep(.05)
    for status in (0, 3):
        if os.path.exists(f"{sys.argv[1]}.{status}"):
            os.unlink(f"{sys.argv[1]}.{status}")
            sys.exit(status)
'''


def started(tmp, n):
    try:
        pids = [int(p) for p in open(f'{tmp}/pids').read().split()]
    except FileNotFoundError:
        pids = []
    return pids if len(pids) == n else None


def test_storage_vm_command(tmp):
    """It is started, started again when it died, not when it ended well; and it goes with the bridge."""
    command = ('--storage-vm', '--', sys.executable, '-c', VM, f'{tmp}/pids')
    with Bridge(tmp, ('a',), '1M', *command) as b:
        pids = until('the first', lambda: started(tmp, 1))
        os.kill(pids[0], signal.SIGKILL)
        pids = until('the second', lambda: started(tmp, 2))
        assert not os.path.exists(f'/proc/{pids[0]}')
        start = time.time()
        open(f'{tmp}/pids.3', 'w').close()
        pids = until('the third', lambda: started(tmp, 3))
        assert time.time() - start < .6
        assert 'storage VM died (signal 9)' in b.log() and 'storage VM ended (status 3)' in b.log()
        open(f'{tmp}/pids.0', 'w').close()
        assert b.proc.wait(20) == 0  # off: clean
    os.unlink(f'{tmp}/pids')
    for end in (Bridge.close, lambda b: b.proc.kill()):
        with Bridge(tmp, ('a',), '1M', *command) as b:
            pid, = until('the first', lambda: started(tmp, 1))
            end(b)
            until('the storage VM to be gone', lambda: gone(pid))
        os.unlink(f'{tmp}/pids')
    p = run('--relay', f'{tmp}/relay', *sibling(vhost=f'{tmp}/v', ivshmem=f'{tmp}/i', memory=f'{tmp}/m'),
            '--storage-vm', '--', '/no/such/program')
    assert p.returncode == 127 and '/no/such/program: No such file' in p.stderr
