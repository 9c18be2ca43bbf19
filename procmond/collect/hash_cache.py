"""What is known of files already hashed. One rule: pure; a digest is kept only if its key will prove it.

The key is (device, inode, size, mtime, ctime). Nobody can set a ctime: every write, `touch -r` included,
moves it on, so equal keys mean equal content, with two exceptions. A file that changed just before it was
read may change again within the resolution of time stamps: such a digest is not remembered. And stores
through a mapping move it only now and then; but the kernel runs no file that is mapped for writing, nor
lets one that runs be mapped so (ETXTBSY), so what comes here was read of running images, or of files only
root may write to.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable

import msgspec

from common import limits
from common.messages import Digest, HashState
from common.validate import DEFAULT_ALGORITHM, DIGEST_HEX
from procmond.collect.sighting import FileIdentity

Algorithms = tuple[str, ...]
"""sha256, then the others in the schema's order, each once: what `canonical` makes."""

SHA256_ONLY: Algorithms = (DEFAULT_ALGORITHM,)


def canonical(wanted: Iterable[str]) -> Algorithms:
    """sha256 always, then those `wanted` ("" stands for sha256), in one order and each once."""
    chosen = {name for name in wanted if name} | set(SHA256_ONLY)
    return tuple(name for name in DIGEST_HEX if name in chosen)


class HashOutcome(msgspec.Struct, frozen=True):
    """Digests of one file, or why there are none."""

    state: HashState
    digests: tuple[Digest, ...] = ()
    """In canonical order; empty unless `state` is OK."""
    bytes: int = 0
    """Read for it, also when it failed later."""


class HashCache:
    """At most `capacity` files, the longest unused forgotten first."""

    def __init__(self, capacity: int = limits.HASH_CACHE_ENTRIES) -> None:
        self._capacity = capacity
        self._entries: OrderedDict[FileIdentity, tuple[Algorithms, HashOutcome]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, identity: FileIdentity, algorithms: Algorithms = SHA256_ONLY) -> HashOutcome | None:
        """The digests by exactly `algorithms` (canonical), or None when one of them is not known.

        On the path of every process of every sweep: a dictionary look-up and one comparison.
        """
        entry = self._entries.get(identity)
        if entry is None:
            return None
        known, outcome = entry
        self._entries.move_to_end(identity)
        if known == algorithms:
            return outcome
        digests = tuple(digest for digest in outcome.digests if digest.algorithm in algorithms)
        return msgspec.structs.replace(outcome, digests=digests) if len(digests) == len(algorithms) else None

    def put(self, identity: FileIdentity, outcome: HashOutcome, began_ns: int) -> None:
        """Remember `outcome` beside what is known of the file already, if it can be relied on.

        `began_ns` is the Unix time in nanoseconds before the file was read. Failures are not remembered:
        each is as cheap to find again.
        """
        if outcome.state is not HashState.OK or began_ns - identity.ctime_ns < limits.HASH_SETTLE_NS:
            return
        _, earlier = self._entries.get(identity, ((), outcome))
        digests = {digest.algorithm: digest for digest in (*earlier.digests, *outcome.digests)}
        known = canonical(digests)
        merged = msgspec.structs.replace(outcome, digests=tuple(digests[name] for name in known))
        self._entries[identity] = (known, merged)
        self._entries.move_to_end(identity)
        if len(self._entries) > self._capacity:
            self._entries.popitem(last=False)
