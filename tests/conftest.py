# SPDX-License-Identifier: BSD-2-Clause
import os
import shutil
import sys

import pytest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import lib  # noqa: E402


@pytest.fixture
def tmp():
    """A scratch folder in memory, gone after the test."""
    d = lib.scratch()
    yield d
    shutil.rmtree(d, ignore_errors=True)
