# SPDX-License-Identifier: BSD-2-Clause
"""tools/strongroom-up: what it prints can be run, what it runs works; a guest with two disks."""
import os
import shlex
import subprocess

import lib
from bridge_peers import until
from test_bridge_qemu import disk

UP = os.path.join(lib.TOP, 'tools/strongroom-up')


def up(*words):
    return subprocess.run([UP, *words], capture_output=True, text=True, timeout=30)


def test_prints(tmp):
    p = up('--dir', f'{tmp}/with blank', 'name=a,size=64M,disk=/x,,y,format=qcow2,disk=z,readonly=on', 'name=b,size=1G,disk=w', '--', '-vnc', ':1')
    assert p.returncode == 0, p.stderr
    lines = [shlex.split(line) for line in p.stdout.splitlines() if line and not line.startswith('#')]
    assert [os.path.basename(words[0]) for words in lines] == ['mkdir', 'bridge', 'qemu-system-x86_64', 'qemu-system-x86_64']
    assert lines[1].count('--sibling') == 3
    assert 'driver=file,node-name=a,filename=/x,,y,discard=unmap' in lines[1]
    assert lines[2][-3:] == ['-vnc', ':1', '&']


def test_wrong_words():
    for words, sentence in ((['name=a,size=1M'], 'are needed'), (['name=a,colour=red'], "there is no 'colour'"), (['format=raw'], "'format'")):
        p = up(*words)
        assert p.returncode == 1 and sentence in p.stderr


def test_runs(tmp):
    disk(f'{tmp}/disk')
    lib.run('qemu-img', 'create', '-q', '-f', 'qcow2', f'{tmp}/more', '1G')
    p = subprocess.Popen([UP, '--run', '--dir', tmp, f'name=a,size=64M,disk={tmp}/disk,readonly=on,disk={tmp}/more,format=qcow2', '--',
                          '-nodefaults', '-display', 'none', '-serial', f'file:{tmp}/{{name}}.serial'],
                         stdout=subprocess.DEVNULL, stderr=open(f'{tmp}/err', 'w'), env={**os.environ, 'BUILD': lib.BUILD})

    def read(name):
        return open(f'{tmp}/{name}', errors='replace').read() if os.path.exists(f'{tmp}/{name}') else ''
    try:
        until('the guest to read its disk', lambda: read('a.serial').count('.') > 20 or p.poll() is not None)
        assert 'sibling a: connected' in read('console') and 'sibling a.1: connected' in read('console')
    except AssertionError:
        print(read('console')[-1000:], read('err')[-1000:], read('a.serial')[:100])
        raise
    finally:
        p.terminate()
        assert p.wait(30) == 0, read('err')
