# SPDX-License-Identifier: BSD-2-Clause
"""Two who write one image: whoever comes second is told, and the image is as it was. Ours and QEMU's programs see each other's locks, and
within one program nobody writes below a format but the format."""
import os
import signal
import subprocess
import sys
import time

import pytest

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
import lib  # noqa: E402
from lib import HOST, Host, run  # noqa: E402


def words(path, more='', writable=True):
    ro = '' if writable else ',read-only=on'
    return ['--blockdev', f'driver=qcow2,node-name=v,file.driver=file,file.filename={path}{more}{ro}{ro.replace(",", ",file.")}',
            '--export', f'type=nbd,id=v,node-name=v,name=v{",writable=on" if writable else ""}']


@pytest.fixture
def image(tmp):
    run('qemu-img', 'create', '-q', '-f', 'qcow2', f'{tmp}/x', '1M')
    return f'{tmp}/x'


def refused(*argv):
    p = run(*argv, check=False)
    assert p.returncode and 'lock' in p.stdout and 'Is another process'.lower() in p.stdout.lower(), p.stdout


def test_writer_alone(image):
    with open(image, 'rb') as f:
        before = f.read()
    with Host(*words(image)) as s:
        refused('qemu-img', 'check', image)
        refused('qemu-io', '-c', 'write 0 4k', image)
        refused(HOST, 'check', image)
        refused(HOST, 'check', '-r', 'all', image)
        refused(HOST, 'create', '-f', 'qcow2', image, '2M')
        refused(HOST, 'create', '-f', 'qcow2', '-o', f'data_file={image}', image + '.new', '2M')
        refused(HOST, *words(image))
        refused(HOST, *words(image, writable=False))
        run('qemu-img', 'info', '-U', image)
        for how in (',file.locking=off', ',force-share=on'):
            with Host(*words(image, how, writable=False)) as other:
                other.quit()
        s.quit()
    with open(image, 'rb') as f:
        assert f.read() == before
    assert not os.path.exists(image + '.new')
    run(HOST, 'check', image)


def test_readers_together(image):
    with Host(*words(image, writable=False)) as a, Host(*words(image, writable=False)) as b:
        run('qemu-img', 'check', image)
        refused('qemu-io', '-c', 'write 0 4k', image)
        refused(HOST, *words(image))
        a.quit()
        b.quit()
    run('qemu-io', '-c', 'write 0 4k', image)


def test_qemu_has_it(image, tmp):
    qsd = subprocess.Popen(['qemu-storage-daemon', '--blockdev', f'driver=qcow2,node-name=v,file.driver=file,file.filename={image}', '--nbd-server',
                            f'addr.type=unix,addr.path={tmp}/s', '--export', 'type=nbd,id=v,node-name=v,name=v,writable=on'])
    try:
        end = time.time() + lib.PATIENCE
        while not os.path.exists(f'{tmp}/s'):
            assert time.time() < end, 'waited for the socket of qemu-storage-daemon'
            time.sleep(.01)
        refused(HOST, *words(image))
        refused(HOST, 'check', image)
    finally:
        qsd.send_signal(signal.SIGKILL)
        qsd.wait()
    with Host(*words(image)) as s:  # a lock ends with its process
        s.quit()


FILE = 'driver=file,node-name=f0,filename='
CONFLICT = "Permission conflict on node 'f0': permissions 'write' are both required by "


@pytest.mark.parametrize('more', [
    ['--blockdev', 'driver=qcow2,node-name=w,file=f0'],
    ['--blockdev', 'driver=raw,node-name=w,file=f0'],
    ['--blockdev', 'driver=raw,node-name=r,file=f0,read-only=on', '--export', 'type=nbd,id=e,node-name=f0,name=e,writable=on'],
    ['--export', 'type=nbd,id=e,node-name=f0,name=e,writable=on'],
])
def test_one_owner(image, more, tmp):
    p = run(HOST, '--nbd-server', f'addr.type=unix,addr.path={tmp}/s', '--blockdev', FILE + image, '--blockdev', 'driver=qcow2,node-name=v,file=f0', *more, check=False, timeout=10)
    assert p.returncode == 3 and CONFLICT in p.stdout, p.stdout


def test_owner_comes_last(image):
    p = run(HOST, '--blockdev', FILE + image, '--blockdev', 'driver=raw,node-name=r,file=f0', '--blockdev', 'driver=qcow2,node-name=v,file=f0,read-only=on',
            check=False, timeout=10)
    assert p.returncode == 3 and CONFLICT + "node 'r'" in p.stdout, p.stdout
    p = run(HOST, '--blockdev', FILE + image, '--blockdev', 'driver=raw,node-name=r,file=f0', '--blockdev', 'driver=raw,node-name=x,file=f0',
            '--blockdev', 'driver=qcow2,node-name=v,file=r', check=False, timeout=10)
    assert p.returncode == 3 and "required by node 'x' (uses node 'f0' as 'file' child) and unshared by node 'v'" in p.stdout, p.stdout


def test_readers_beside_the_owner(image):
    with Host('--blockdev', FILE + image, '--blockdev', 'driver=qcow2,node-name=v,file=f0', '--blockdev', 'driver=raw,node-name=r,file=f0,read-only=on',
              '--export', 'type=nbd,id=v,node-name=v,name=v,writable=on', '--export', 'type=nbd,id=r,node-name=r,name=r') as s:
        s.quit()
