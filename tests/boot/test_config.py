# SPDX-License-Identifier: BSD-2-Clause
"""Bad configuration: the contract's error line, status 3, nothing half-open."""
import pytest

import lib
from lib import VM, run

DISK = '--blockdev driver=virtio-blk,node-name=disk0,serial=d0 '
WRONG = {
    'unknown option': ('--frobnicate on', 'frobnicate'),
    'unknown driver': ('--blockdev driver=nosuch,node-name=x', 'nosuch'),
    'unknown key': (DISK + '--blockdev driver=raw,node-name=x,file=disk0,bogus=1', 'bogus'),
    'missing key': ('--blockdev driver=raw,node-name=x', 'file'),
    'wrong type': (DISK + '--blockdev driver=raw,node-name=x,file=disk0,offset=many', 'offset'),
    'missing serial': ('--blockdev driver=virtio-blk,node-name=x,serial=zzz', 'zzz'),
    'serial and index': ('--blockdev driver=virtio-blk,node-name=x,serial=d0,index=0', 'serial'),
    'missing node': (lib.SERVER + '--export type=nbd,id=e,node-name=nope,name=n', 'nope'),
    'duplicate node': (DISK + '--blockdev driver=raw,node-name=disk0,file=disk0', 'disk0'),
    'duplicate export': (DISK + lib.SERVER + '--export type=nbd,id=e,node-name=disk0,name=a '
                         '--export type=nbd,id=e,node-name=disk0,name=b', 'e'),
    'export before server': (DISK + '--export type=nbd,id=e,node-name=disk0,name=a', 'erver'),
    'disk claimed twice': (DISK + '--blockdev driver=virtio-blk,node-name=again,serial=d0', 'd0'),
    'not a qcow2': (DISK + '--blockdev driver=qcow2,node-name=x,file=disk0', 'qcow2'),
    'bad json': ("--blockdev {'driver'", 'JSON'),
    'bad address': ('--netdev driver=virtio-net,ip=1.2.3', '1.2.3'),
}


@pytest.mark.parametrize('what', WRONG)
def test_error_line_and_status(what, tmp):
    words, mentions = WRONG[what]
    run('truncate', '-s', '1M', f'{tmp}/d')
    with VM(words, [f'{tmp}/d'], wait=False) as vm:
        rc = vm.status()
        errors = [line for line in vm.console().splitlines() if 'error: ' in line]
        assert rc == 3, f'status {rc}:\n{vm.console()}'
        assert len(errors) == 1 and mentions in errors[0], vm.console()
        assert errors[0].split('] ', 1)[1].startswith('error: --'), errors[0]
        assert 'ready:' not in vm.console()


@pytest.mark.parametrize('what', [w for w in WRONG if 'virtio' not in WRONG[w][0]] + ['not a qcow2'])
def test_host_form(what, tmp):
    words, mentions = WRONG[what]
    run('truncate', '-s', '1M', f'{tmp}/d')
    words = words.replace('driver=virtio-blk,node-name=disk0,serial=d0', f'driver=file,node-name=disk0,filename={tmp}/d')
    words = words.replace('addr.host=0.0.0.0', 'addr.host=127.0.0.1').replace('10809', str(lib.free_port()))
    if '--netdev' in words:
        pytest.skip('the host has its own network')
    with lib.Host(*words.split(), server=False, wait=False) as h:
        assert h.status() == 3, h.console()
        assert mentions in h.console() and 'error: --' in h.console()
