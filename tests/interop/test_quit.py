# SPDX-License-Identifier: BSD-2-Clause
"""Leaving with company: a client that reads nothing does not keep us from closing, and so flushing, every node."""
import time

import lib
from lib import Host, nbd, run


def test_quit_with_a_client_that_does_not_read(tmp):
    run('qemu-img', 'create', '-q', '-f', 'raw', f'{tmp}/d', '64M')
    run('qemu-io', '-f', 'raw', '-c', 'write -q -P 5 0 64M', f'{tmp}/d')
    with Host('--blockdev', f'driver=file,node-name=f,filename={tmp}/d', '--blockdev', 'driver=raw,node-name=v,file=f',
              '--export', 'type=nbd,id=e,node-name=v,name=v,writable=on') as s:
        hog = s.connect('v')
        bufs = [nbd.Buffer(8 << 20) for _ in range(8)]
        for b in bufs:
            hog.aio_pread(b, 0)  # and never polls again
        w = s.connect('v')
        w.pwrite(b'k' * 4096, 0)  # completed, not flushed
        time.sleep(.5)
        start = time.time()
        s.proc.terminate()
        assert s.status(30) == 0, s.console()
        assert 5 < time.time() - start < 15  # the hog was waited for, and then cut
        assert 'off: clean' in s.console(), s.console()
        assert 'in flight' not in s.console() and 'not closed' not in s.console(), s.console()
        with open(f'{tmp}/d', 'rb') as f:
            assert f.read(4096) == b'k' * 4096
