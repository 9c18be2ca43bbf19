"""What is asked of the kernel before nobody may ask any more."""

from __future__ import annotations

from procmond.collect.mounts import find_memory_device
from procmond.confine import confine_collector
from tests.support.daemons import as_user
from tests.support.privilege import needs_root


@needs_root
def test_where_memfds_live_is_still_known_when_none_can_be_made() -> None:
    known = find_memory_device()

    def confined() -> int:
        confine_collector()
        return find_memory_device()

    assert known
    assert as_user(0, 0, confined) == known
