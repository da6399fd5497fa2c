# SPDX-License-Identifier: BSD-2-Clause
"""QMP over the console port."""
import lib
from lib import VM, run

WORDS = ('--blockdev driver=virtio-blk,node-name=disk0,serial=d0 --blockdev driver=qcow2,node-name=vol,file=disk0,read-only=on ' +
         lib.SERVER + '--export type=nbd,id=exp0,node-name=vol,name=v')


def test_conversation(tmp):
    run('qemu-img', 'create', '-q', '-f', 'qcow2', f'{tmp}/d', '64M')
    run('truncate', '-s', '%512', f'{tmp}/d')
    with VM(WORDS, [f'{tmp}/d']) as vm:
        q = vm.qmp()
        assert q.greeting['QMP']['version']['qemu']['major'] == 7
        assert 'strongroom' in q('query-version')['return']['package'].lower()
        names = {c['name'] for c in q('query-commands')['return']}
        assert {'qmp_capabilities', 'quit', 'query-version', 'query-commands', 'query-block-exports', 'query-named-block-nodes'} <= names
        assert q('query-block-exports')['return'] == [{'id': 'exp0', 'type': 'nbd', 'node-name': 'vol', 'shutting-down': False}]
        nodes = {n['node-name']: n for n in q('query-named-block-nodes')['return']}
        assert nodes['vol']['drv'] == 'qcow2' and nodes['vol']['ro'] and nodes['vol']['image']['virtual-size'] == 64 << 20
        assert nodes['disk0']['drv'] == 'virtio-blk'
        assert q.raw('{"execute": "query-version", "id": [1, {"a": null}]}')['id'] == [1, {'a': None}]
        assert q('nosuch')['error'] == {'class': 'CommandNotFound', 'desc': 'The command nosuch has not been found'}
        assert q('quit', bogus=1)['error']['class'] == 'GenericError'
        assert q.raw('{]')['error']['class'] == 'GenericError'
        assert 'return' in q('query-version')
        q.close()
        again = vm.qmp()  # a new client starts over
        assert again.greeting['QMP']
        again.close()
        vm.quit()
