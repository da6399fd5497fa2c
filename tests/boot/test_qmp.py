# SPDX-License-Identifier: BSD-2-Clause
"""QMP over the console port of the firmware and over the host form's socket, and configurations by fw_cfg."""
import json
import os
import socket
import time

import pytest

import lib
from lib import VM, run

DISK = '--blockdev driver=virtio-blk,node-name=disk0,serial=d0 '
HELLO = '{"execute": "qmp_capabilities"}'
VERSION = '{"execute": "query-version"}'


class Raw:
    """A client that says what it likes."""

    def __init__(self, path):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(lib.PATIENCE)
        self.sock.connect(path)
        self.file = self.sock.makefile('rb')

    def say(self, data):
        self.sock.sendall(data if isinstance(data, bytes) else data.encode())

    def line(self):
        line = self.file.readline()
        assert line.endswith(b'\r\n') or not line
        return json.loads(line) if line else None

    def ask(self, data):
        self.say(data)
        return self.line()

    def close(self):
        self.file.close()
        self.sock.close()


@pytest.fixture(params=['q35', 'microvm', 'virt', 'host'])
def served(request, tmp):
    run('truncate', '-s', '1M', f'{tmp}/d')
    if request.param == 'host':
        with lib.Host('--blockdev', f'driver=file,node-name=disk0,filename={tmp}/d', '--export',
                      'type=nbd,id=e,node-name=disk0,name=a') as h:
            yield h
    else:
        with VM(DISK + lib.SERVER + '--export type=nbd,id=e,node-name=disk0,name=a', [f'{tmp}/d'],
                machine=request.param) as vm:
            yield vm


def test_each_client_starts_over(served):
    for _ in range(3):
        q = Raw(f'{served.dir}/qmp')
        greeting = q.line()['QMP']
        assert greeting['capabilities'] == []
        assert greeting['version']['qemu'] == {'major': 7, 'minor': 2, 'micro': 22}
        assert greeting['version']['package'].startswith('strongroom ')
        assert q.ask(VERSION)['error']['class'] == 'CommandNotFound'
        q.say('{"execute": "quit", "arg')  # half a request is nothing to the next client
        q.close()
    with_events = served.qmp()
    assert 'return' in with_events('query-version')


def test_queries(served):
    q = served.qmp()
    assert q('query-block-exports')['return'] == [
        {'id': 'e', 'type': 'nbd', 'node-name': 'disk0', 'shutting-down': False}]
    nodes = q('query-named-block-nodes')['return']
    assert [n['node-name'] for n in nodes] == ['disk0']
    assert nodes[0]['image']['virtual-size'] == 1 << 20
    assert nodes[0]['cache'] == {'writeback': True, 'direct': False, 'no-flush': False}
    names = [c['name'] for c in q('query-commands')['return']]
    assert names == sorted(names) and 'quit' in names


def test_garbage_and_depth(served):
    q = Raw(f'{served.dir}/qmp')
    q.line()
    assert q.ask(HELLO) == {'return': {}}
    assert 'stray' in q.ask(b'{"a":\xff\n')['error']['desc']
    deep = '[' * 60 + '1' + ']' * 60
    reply = q.ask('{"execute": "query-version", "id": %s}' % deep)
    assert reply['id'] == json.loads(deep)
    assert 'nesting' in q.ask('[' * 65 + ']' * 65)['error']['desc']
    assert 'return' in q.ask(VERSION)
    long = 'x' * 500000
    assert q.ask('{"execute": "query-version", "id": "%s"}' % long)['id'] == long
    assert 'limit' in q.ask('{"execute": "query-version", "id": "%s"}' % (long * 3))['error']['desc']
    assert 'return' in q.ask(VERSION)
    q.close()


def test_quit(served):
    q = Raw(f'{served.dir}/qmp')
    q.line()
    q.ask(HELLO)
    assert q.ask('{"execute": "quit", "id": 5}') == {'return': {}, 'id': 5}
    assert q.line() is None
    assert served.status() == 0
    assert 'off: clean' in served.console()


def test_pipe(tmp):
    """Whoever closes his side after asking gets his answers; of one who leaves them unread and goes nothing is left."""
    with lib.Host() as h:
        q = Raw(f'{h.dir}/qmp')
        q.say(HELLO + VERSION)
        q.sock.shutdown(socket.SHUT_WR)
        assert 'QMP' in q.line() and 'return' in q.line() and 'package' in q.line()['return']
        assert q.line() is None
        fds = f'/proc/{h.proc.pid}/fd'
        before = len(os.listdir(fds))
        lazy = Raw(f'{h.dir}/qmp')
        lazy.sock.settimeout(0.2)
        lazy.say(HELLO)
        try:
            for _ in range(20):
                lazy.say('{"execute": "query-version", "id": "%s"}' % ('x' * 100000))
        except TimeoutError:
            pass
        lazy.close()
        deadline = time.time() + lib.PATIENCE
        while len(os.listdir(fds)) > before:
            assert time.time() < deadline, 'the monitor of a peer that does not read is still there'
            time.sleep(0.1)
        assert 'return' in h.qmp()('query-version')


CONFIG = [
    {'execute': 'blockdev-add', 'arguments': {'driver': 'virtio-blk', 'node-name': 'disk0', 'serial': 'd0'}},
    {'execute': 'nbd-server-start', 'arguments': {'addr': {'type': 'inet', 'host': '0.0.0.0', 'port': '10809'}}},
    {'execute': 'block-export-add', 'arguments': {'type': 'nbd', 'id': 'e', 'node-name': 'disk0', 'name': 'a'}},
]


@pytest.mark.parametrize('how', ['fw_cfg', 'initrd'])
def test_configuration_file(how, tmp):
    run('truncate', '-s', '1M', f'{tmp}/d')
    with open(f'{tmp}/config', 'w') as f:
        json.dump(CONFIG, f)
    words = {'fw_cfg': ['-fw_cfg', f'name=opt/strongroom/config,file={tmp}/config'],
             'initrd': ['-initrd', f'{tmp}/config']}[how]
    with VM('', [f'{tmp}/d'], extra=words) as vm:
        assert 'ready: 1 exports' in vm.console()
        assert vm.qmp()('query-block-exports')['return'][0]['id'] == 'e'


def test_bad_configuration_file(tmp):
    run('truncate', '-s', '1M', f'{tmp}/d')
    with open(f'{tmp}/config', 'w') as f:
        json.dump(CONFIG[:1] + [{'execute': 'nosuch'}], f)
    with VM('', [f'{tmp}/d'], extra=['-fw_cfg', f'name=opt/strongroom/config,file={tmp}/config'], wait=False) as vm:
        assert vm.status() == 3
        assert 'command 2, nosuch: The command nosuch has not been found' in vm.console()


def test_nested_definition(tmp):
    """As deep as JSON may be: checked on a stack that holds it, and refused by its innermost mistake."""
    deep = '{"driver":"raw","file":' * 63 + '{"driver":"nosuch"}' + '}' * 63
    with VM(f'--blockdev {deep}', wait=False) as vm:
        assert vm.status() == 3
        assert "Parameter 'driver' does not accept value 'nosuch'" in vm.console()
