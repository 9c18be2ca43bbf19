"""Putting the hash into the event of an exec. One rule: an event goes out once, so its hash is there or its
state says why not."""

from __future__ import annotations

import asyncio
from functools import lru_cache
from typing import Final

import msgspec

from common.messages import HashState, Provenance
from procmond.collect.hash_cache import SHA256_ONLY, Algorithms, HashOutcome
from procmond.collect.hashes import fragment
from procmond.collect.records import embed_record, encode_exception
from procmond.events.event import Event
from procmond.events.lanes import Lanes
from procmond.events.proof import PENDING, Answer

HASH_WAIT_S: Final = 0.25
"""Seconds an exec of an image not seen before waits for its hash: 400 MB at what one core hashes. What was
done to and by other processes is not held up."""

_PARTS: Final = 4096
"""Encoded hashes kept: the images a host runs again and again."""
_EXCEPTIONS: Final = {
    Provenance.PROC: encode_exception("executable_hash", Provenance.PROC),
    Provenance.FILE: encode_exception("executable_hash", Provenance.FILE),
    Provenance.MISSING: encode_exception("executable_hash", Provenance.MISSING, "exited"),
}


class HashWish(msgspec.Struct, frozen=True):
    """What the subscribers there are want of an image, all together."""

    algorithms: Algorithms = SHA256_ONLY
    read: bool = True
    """False: only what is known already."""


def finish(event: Event, outcome: HashOutcome, provenance: Provenance) -> None:
    """Put the digests into an exec event, and how they are known."""
    event.outcome = outcome
    event.body += _part(outcome, provenance)


@lru_cache(maxsize=_PARTS)
def _part(outcome: HashOutcome, provenance: Provenance) -> bytes:
    """The part of an event with the sha256; further digests are for those who ask."""
    basic = outcome
    if len(outcome.digests) > 1:
        basic = msgspec.structs.replace(outcome, digests=outcome.digests[:1])  # sha256 is the first
    part = fragment(basic, True)
    if outcome.digests or outcome.state is HashState.GONE:
        part += _EXCEPTIONS[provenance]
    return embed_record(part)


def put_when_hashed(lanes: Lanes, event: Event, answer: Answer) -> None:
    """Let the event go once its hash is there, or HASH_WAIT_S have passed. Needs a running event loop."""
    outcome = answer.outcome
    if isinstance(outcome, HashOutcome):
        finish(event, outcome, answer.provenance)
        lanes.put(event)
        return
    future = outcome
    if future.done():
        finish(event, future.result(), answer.provenance)
        lanes.put(event)
        return

    def settle() -> None:
        if future.done() and not future.cancelled():
            finish(event, future.result(), answer.provenance)
        else:
            finish(event, PENDING, Provenance.MISSING)

    lanes.put(event, settle)
    timer = asyncio.get_running_loop().call_later(HASH_WAIT_S, lanes.release, event)

    def hashed(_: object) -> None:
        timer.cancel()
        lanes.release(event)

    future.add_done_callback(hashed)
