"""What a test needs root for. One rule: a test that cannot run here says so, it does not pass."""

from __future__ import annotations

import os

import pytest

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: runs real processes under other uids")
