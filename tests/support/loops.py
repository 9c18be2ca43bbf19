"""The event loops tests run on. One rule: what runs on uvloop in production also runs on asyncio's own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Final

import uvloop

LOOP_FACTORIES: Final[Mapping[str, Callable[[], asyncio.AbstractEventLoop]]] = {
    "asyncio": asyncio.new_event_loop,
    "uvloop": uvloop.new_event_loop,
}
"""For the hook `pytest_asyncio_loop_factories` of a conftest.py: each asynchronous test runs once on each."""
