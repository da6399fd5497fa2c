# SPDX-License-Identifier: BSD-2-Clause
"""The bridge between siblings and the storage VM: the life of both, in every order. The peers are played (bridge_peers.py)."""
import os
import socket
import struct
import threading
import time

import pytest

from bridge_peers import (BACKEND, CONFIG, CONNECTED, DISCONNECTED, ELSEWHERE, FEATURES, GET_CONFIG, GET_VRING_BASE, MIB, PROTOCOL,
                          REPLAYED, SET_BACKEND_REQ_FD, SET_CONFIG, SET_MEM_TABLE, SET_VRING_BASE, SET_VRING_CALL, SET_VRING_ERR,
                          SET_VRING_KICK, UVA, VHOST, Bridge, FrontEnd, StorageVM, receive, until)


def test_start_work_stop(tmp):
    with Bridge(tmp) as b, StorageVM(b) as vm:
        f = FrontEnd(b, 'a').connect()
        assert f.realize() == CONFIG[:57]
        assert (f.features, f.protocol) == (FEATURES, PROTOCOL)  # without what the bridge cannot do
        assert not vm.heard(VHOST, 0, SET_VRING_CALL) and not vm.heard(VHOST, 0, SET_VRING_ERR)  # H1
        f.start()
        for _ in range(100):
            f.io(3)
        assert f.stop() == 300
        assert [x[4] for x in vm.heard(VHOST, 0, SET_MEM_TABLE)] == [(0,)]
        assert [x[4] for x in vm.heard(VHOST, 0, SET_VRING_KICK)] == [(1,)]
        f.close()
        vm.wait_heard('DISCONNECTED', DISCONNECTED, 0)
        vm.check()
        assert vm.names == {0: 'a', 1: 'b'}


def test_who_comes_first(tmp):
    with Bridge(tmp) as b:
        assert not os.path.exists(f'{tmp}/a.vhost')  # no storage VM: nobody would answer
        late = threading.Thread(target=lambda: [vms.append(StorageVM(b)), vms[0].join()])
        f, vms = FrontEnd(b, 'a'), []
        threading.Timer(.3, late.start).start()
        f.connect().realize()
        f.start()
        f.io()
        assert not os.path.exists(f'{tmp}/a.vhost')  # it has one already
        f.close()
        for _ in range(3):  # and again
            f.connect().realize()
            f.start()
            f.io()
            f.close()
        vms[0].kill()
        until('the listener to go', lambda: not os.path.exists(f'{tmp}/a.vhost'))


def test_exported_or_not(tmp):
    with Bridge(tmp) as b, StorageVM(b, exports=['b']) as vm:
        f = FrontEnd(b, 'b').connect()
        f.realize()
        f.start()
        f.io()
        assert not os.path.exists(f'{tmp}/a.vhost')
        vm.export(1, 0)
        vm.wait_heard('DISCONNECTED', DISCONNECTED, 1)
        with pytest.raises((EOFError, ConnectionError)):
            receive(f.sock, 1)
        assert not os.path.exists(f'{tmp}/b.vhost')
        vm.export(0)
        g = FrontEnd(b, 'a').connect()
        g.realize()
        g.start()
        g.io()
        vm.check()


def test_queues(tmp):
    with Bridge(tmp) as b, StorageVM(b) as vm:
        f = FrontEnd(b, 'a').connect()
        f.realize(4)
        assert f.queues == 64
        for q in range(4):
            f.start(q)
        for i in range(40):
            f.io(1, i % 4)
        assert [f.stop(q) for q in range(4)] == [10] * 4
        assert sorted(x[4] for x in vm.heard(VHOST, 0, SET_VRING_KICK)) == [(1,), (2,), (3,), (4,)]
        assert len({x[4] for x in vm.heard(VHOST, 0, SET_VRING_CALL)}) == 4


@pytest.mark.parametrize('direct', [0, 1])
def test_reboots_for_ever(tmp, direct):
    """A driver that starts again and again uses up nothing."""
    times = 3000 if direct else 100
    with Bridge(tmp, ('a', 'b'), '1M', '--direct', str(direct)) as b, StorageVM(b) as vm:
        f = FrontEnd(b, 'a').connect()
        f.realize()
        fds = [f'/proc/{p}/fd' for p in (b.proc.pid, b.worker())]
        for i in range(times):
            f.start(base=i & 0xffff)
            f.io()
            assert f.stop() == i + 1
            if i == 20:
                before = [len(os.listdir(p)) for p in fds]
        until('the last descriptors to be closed', lambda: [len(os.listdir(p)) for p in fds] <= before)
        d = vm.device[0]
        assert len(d.vectors) == 1 + direct and len(d.peers) == 1 + direct
        vm.check()


def test_vectors_of_the_device(tmp):
    """No more vectors than the device has, whatever --direct says."""
    with Bridge(tmp) as b, StorageVM(b, vectors=3) as vm:
        f = FrontEnd(b, 'a').connect()
        f.realize()
        for i in range(5):
            f.start(base=i)
            f.io()
            f.stop()
        assert [x[4] for x in vm.heard(VHOST, 0, SET_VRING_KICK)] == [(1,), (2,), (0,), (0,), (0,)]
        vm.check()


def test_storage_vm_dies(tmp):
    """The sibling sees a pause: no reconnect, no request lost, none left out."""
    with Bridge(tmp) as b:
        vm = StorageVM(b)
        f = FrontEnd(b, 'a').connect()
        f.realize(2)
        for q in range(2):
            f.start(q)
            f.io(7, q)
        f.tell(SET_CONFIG, struct.pack('<III', 32, 1, 0) + b'\1')
        vm.wait_heard('SET_CONFIG', VHOST, 0, SET_CONFIG)
        for i in range(5):
            vm.kill()
            f.submit(3)
            vm = StorageVM(b)
            vm.wait_heard('REPLAYED', REPLAYED, 0)
            f.interrupted()
            assert f.indexes() == (10 + 4 * i, 10 + 4 * i)
            f.io()
        said = [x for x in vm.said if x[1] == 0 and x[0] in (VHOST, CONNECTED, REPLAYED)]
        assert [x[0] for x in said] == [CONNECTED] + [VHOST] * (len(said) - 2) + [REPLAYED]
        assert said[0][2] == struct.pack('<II', 1, 0)
        assert [x[2] for x in said[1:-1]] == [16, 2, 25, 5] + [8, 10, 9, 13, 12, 18] * 2
        assert [struct.unpack('<II', x[3]) for x in said if x[2] == SET_VRING_BASE] == [(0, 23), (1, 7)]
        assert f.stop() == 27 and f.stop(1) == 7
        vm.kill()


def test_reboot_without_a_storage_vm(tmp):
    """What can be answered without it, is; the next one hears the end of the story."""
    with Bridge(tmp) as b:
        vm = StorageVM(b)
        f = FrontEnd(b, 'a').connect()
        f.realize()
        f.start()
        f.io(5)
        vm.kill()
        f.submit(2)  # never done
        assert f.stop() == 5
        f.set_indexes(0)
        f.start()
        f.submit(4)
        with StorageVM(b) as vm:
            until('the four', lambda: f.indexes() == (4, 4))
            f.io()
            assert f.stop() == 5
            vm.check()


def test_answers_that_do_not_come(tmp):
    with Bridge(tmp, ('a', 'b'), '1M', '--timeout', '300') as b, StorageVM(b, mute=[GET_VRING_BASE]) as vm:
        f, g = FrontEnd(b, 'a').connect(), FrontEnd(b, 'b').connect()
        for x in (f, g):
            x.realize()
            x.start()
            x.io(6)
        start = time.time()
        assert f.stop() == 6
        assert .2 < time.time() - start < 5
        vm.wait_heard('the truth', REPLAYED, 0)  # it is told of the stop as of another life
        g.io()
        f.start(base=6)
        f.io()
        vm.mute.add(GET_CONFIG)
        f.tell(GET_CONFIG, struct.pack('<III', 0, 57, 0) + bytes(57))
        with pytest.raises((EOFError, ConnectionError)):
            receive(f.sock, 1)
        assert 'waited too long for an answer to GET_CONFIG' in b.log()
        vm.mute.clear()
        f.close()
        f.connect().realize()
        g.io()
        vm.check()


def test_storage_vm_that_reads_nothing(tmp):
    """A full relay: messages are recorded, and told when it reads again."""
    with Bridge(tmp, ('a', 'b'), '1M', '--timeout', '200') as b, StorageVM(b) as vm:
        f = FrontEnd(b, 'a').connect()
        f.realize()
        f.start()
        f.io(3)
        with vm.stopped():
            for i in range(3000):
                f.tell(SET_CONFIG, struct.pack('<III', 0, 200, 0) + struct.pack('<I', i) * 50)
            assert f.stop() == 3
        f.start(base=3)
        f.io()
        assert vm.heard(VHOST, 0, SET_CONFIG)[-1][3][-4:] == struct.pack('<I', 2999)
        vm.check()


def test_config_change(tmp):
    with Bridge(tmp) as b, StorageVM(b) as vm:
        f = FrontEnd(b, 'a').connect()
        f.realize()
        message = struct.pack('<III', 2, 1, 0)
        vm.frame(BACKEND, 0, message)  # no socket yet: dropped
        ours, theirs = socket.socketpair()
        assert f.ask(SET_BACKEND_REQ_FD, b'', [theirs.fileno()], 9) == bytes(8)
        theirs.close()
        vm.frame(BACKEND, 0, message)
        ours.settimeout(10)
        assert ours.recv(100) == message
        vm.check()


def test_memory_elsewhere(tmp):
    with Bridge(tmp) as b, StorageVM(b) as vm:
        f = FrontEnd(b, 'a').connect()
        f.realize()
        other = os.memfd_create('other')
        os.ftruncate(other, MIB)
        table = struct.pack('<II', 3, 0) + struct.pack('<QQQQ', 0, f.size, UVA, 0) * 2
        table += struct.pack('<QQQQ', 0, f.size, UVA, 4096)  # past the end
        assert f.ask(SET_MEM_TABLE, table, [f.file, other, f.file], 9) == bytes(8)
        assert vm.heard(VHOST, 0, SET_MEM_TABLE)[-1][4] == (0, ELSEWHERE, ELSEWHERE)


def test_flags_of_descriptors(tmp):
    """H1: what goes through a socket chardev comes out blocking, for all who share it."""
    with Bridge(tmp) as b, StorageVM(b) as vm:
        f = FrontEnd(b, 'a').connect()
        f.realize()
        for i in range(20):
            f.start(base=i)
            f.io()
            assert not os.get_blocking(f.call[0]) and not os.get_blocking(f.kick[0])
            f.stop()
        vm.check()


def test_call_while_it_runs(tmp):
    with Bridge(tmp, ('a',), '1M', '--direct', '3') as b, StorageVM(b) as vm:
        f = FrontEnd(b, 'a').connect()
        f.realize()
        f.start()
        for _ in range(10):
            f.io()
            f.new_call()
            f.ask(SET_MEM_TABLE, struct.pack('<IIQQQQ', 1, 0, 0, f.size, UVA, 0), [f.file], 9)  # it has been told
        f.io()
        assert len(vm.device[0].peers) == 4
        f.tell(SET_VRING_CALL, struct.pack('<Q', 0x100))  # polls from now on
        f.submit()
        until('the entry', lambda: f.indexes() == (12, 12))
        vm.check()


def test_vector_masked_and_unmasked(tmp):
    """QEMU with KVM goes to and fro between two eventfds: that uses up nothing."""
    with Bridge(tmp, ('a',)) as b, StorageVM(b) as vm:
        f = FrontEnd(b, 'a').connect()
        f.realize()
        f.start()
        masked = os.eventfd(0, os.EFD_NONBLOCK)
        for i in range(50):
            if i == 25:
                b.kill_worker()
            f.tell(SET_VRING_CALL, struct.pack('<Q', 0), [masked])
            f.submit()
            until('the masked one', lambda: f.indexes() == (2 * i + 1, 2 * i + 1))
            f.tell(SET_VRING_CALL, struct.pack('<Q', 0), [f.call[0]])
            f.io()
        assert os.eventfd_read(masked) > 25
        assert len(vm.device[0].peers) == 2
        vm.check()
