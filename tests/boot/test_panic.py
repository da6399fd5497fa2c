# SPDX-License-Identifier: BSD-2-Clause
"""What must never go unnoticed ends in a readable panic and status 5: null page, W^X, guard pages, exceptions, asserts."""
import pytest

import lib
from lib import VM

# kind: what the console must say
KINDS = {
    'null-read': 'page fault', 'null-write': 'page fault', 'text-write': 'page fault', 'rodata-write': 'page fault',
    'data-exec': 'page fault', 'heap-exec': 'page fault', 'guard': 'page fault', 'divide': 'divide', 'undefined': 'invalid opcode',
    'assert': 'zero == 1', 'linear-hole': 'page fault',
}


# aarch64 has no exception for a division by zero
ON_ARM = {**KINDS, 'undefined': 'breakpoint'}
del ON_ARM['divide']
CASES = [('q35', k, text) for k, text in KINDS.items()] + [('virt', k, text) for k, text in ON_ARM.items()]


@pytest.mark.parametrize('machine,kind,text', CASES)
def test_panics(machine, kind, text):
    with VM(f'--x-crash {kind}', kernel=lib.crash_image(machine), machine=machine, wait=False) as vm:
        rc = vm.status()
        console = vm.console()
        assert rc == 5, f'status {rc}:\n{console}'
        assert 'survived' not in console
        panic = [line for line in console.splitlines() if 'panic: ' in line]
        assert len(panic) == 1 and text in panic[0].lower(), console
        assert 'co_crash' in console or kind == 'guard', f'no names in the backtrace:\n{console}'


def test_without_semihosting():
    """Nobody takes the status: the machine goes off all the same."""
    with VM('--x-crash undefined', kernel=lib.crash_image('virt'), machine='virt', wait=False,
            extra=['-semihosting-config', 'enable=off']) as vm:
        assert vm.status() == 0 and 'panic: ' in vm.console(), vm.console()


@pytest.mark.parametrize('machine', ['microvm', 'microvm-noacpi', 'q35-qboot', 'virt-gic3', 'virt-el2'])
def test_panics_elsewhere(machine):
    with VM('--x-crash null-write', kernel=lib.crash_image(machine), machine=machine, wait=False) as vm:
        assert vm.status() == 5, vm.console()
        assert 'panic: ' in vm.console()
