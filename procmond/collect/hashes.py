"""Hashes for one sweep. One rule: each distinct image is asked for once, and waited for within one budget."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Sequence
from typing import Final

from common.messages import HashState
from common.validate import DEFAULT_ALGORITHM
from procmond.collect.hash_cache import Algorithms, HashOutcome
from procmond.collect.lanes import HashLanes
from procmond.collect.records import encode_hash_facts
from procmond.collect.sighting import FileIdentity, Sighting

_PENDING: Final = HashOutcome(HashState.PENDING)
_FRAGMENTS: Final = 65_536
"""Encoded hash fields remembered: some 120 bytes each, above the distinct executables of any host."""


class SweepHashes:
    """The hashes one sweep needs, asked for as its processes are met."""

    def __init__(
        self, engine: HashLanes, algorithms: Algorithms, *, cached_only: bool, deadline: float
    ) -> None:
        """`deadline` is a time of the loop's clock: then what is still cold is PENDING."""
        self._engine = engine
        self._algorithms = algorithms
        self._cached_only = cached_only
        self._deadline = deadline
        self._known: dict[FileIdentity, HashOutcome] = {}
        self._asked: dict[FileIdentity, asyncio.Future[HashOutcome]] = {}

    def want(self, sighting: Sighting) -> None:
        """Start reading this process's image unless it is known, asked for, or not wanted."""
        image = sighting.image
        if image is None or image in self._known or image in self._asked:
            return
        outcome = self._engine.cached(image, self._algorithms)
        if outcome is not None:
            self._known[image] = outcome
        elif not self._cached_only:
            self._asked[image] = self._engine.submit_image(sighting.pid, image, self._algorithms)

    async def settle(self, sightings: Sequence[Sighting]) -> None:
        """Wait for what these need, as long as the budget lasts."""
        cold = {
            self._asked[sighting.image]
            for sighting in sightings
            if sighting.image is not None and sighting.image in self._asked
        }
        left = self._deadline - asyncio.get_running_loop().time()
        if cold and left > 0:
            await asyncio.wait(cold, timeout=left)

    def outcome(self, sighting: Sighting) -> HashOutcome:
        """What is known of this process's image now."""
        image = sighting.image
        if image is None:
            return _WITHOUT[sighting.image_state]
        known = self._known.get(image)
        if known is not None:
            return known
        future = self._asked.get(image)
        if future is None or not future.done():
            return _PENDING
        outcome = self._known[image] = future.result()
        return outcome

    def abandon(self) -> None:
        """Nobody waits for this sweep any more: stop the reads nobody else waits for."""
        for future in self._asked.values():
            future.cancel()


_WITHOUT: Final = {state: HashOutcome(state) for state in HashState}


def further_digests(outcome: HashOutcome, algorithms: Algorithms) -> bytes:
    """The encoded digests beyond sha256, those of `algorithms`, where there are any."""
    wanted = {digest.algorithm: digest.value for digest in outcome.digests if digest.algorithm in algorithms}
    wanted.pop(DEFAULT_ALGORITHM, None)
    return encode_hash_facts(wanted)


@functools.lru_cache(maxsize=_FRAGMENTS)
def fragment(outcome: HashOutcome, full: bool) -> bytes:
    """The encoded hash fields of a ProcessRecord, to be appended to its payload.

    Without `full` only those of the specification.
    """
    further = {digest.algorithm: digest.value for digest in outcome.digests}
    sha256 = further.pop(DEFAULT_ALGORITHM, None)
    facts = encode_hash_facts(
        executable_hash=sha256, hash_algorithm=None if sha256 is None else DEFAULT_ALGORITHM
    )
    if not full:
        return facts
    return facts + encode_hash_facts(further, hash_state=outcome.state)
