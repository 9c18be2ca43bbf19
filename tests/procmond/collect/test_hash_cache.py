"""What the cache keeps, forgets and never takes in."""

from __future__ import annotations

import pytest

from common import limits
from common.messages import Digest, HashState
from procmond.collect.hash_cache import SHA256_ONLY, HashCache, HashOutcome, canonical
from procmond.collect.sighting import FileIdentity

CTIME = 1_700_000_000_000_000_000
SETTLED = CTIME + limits.HASH_SETTLE_NS


def identity(inode: int = 1, *, ctime_ns: int = CTIME) -> FileIdentity:
    return FileIdentity(device=8, inode=inode, size=10, mtime_ns=5, ctime_ns=ctime_ns)


def outcome(*algorithms: str) -> HashOutcome:
    digests = tuple(Digest(algorithm=name, value=f"of-{name}") for name in algorithms)
    return HashOutcome(HashState.OK, digests, 10)


def test_sha256_comes_first_and_the_rest_in_one_order_each_once() -> None:
    assert canonical(()) == SHA256_ONLY == ("sha256",)
    assert canonical(("md5", "", "sha512", "md5", "sha256")) == ("sha256", "sha512", "md5")


def test_what_was_put_is_found_by_the_same_identity_only() -> None:
    cache = HashCache(4)
    cache.put(identity(), outcome("sha256"), SETTLED)
    assert cache.get(identity()) == outcome("sha256")
    assert cache.get(identity(ctime_ns=CTIME + 1)) is None
    assert cache.get(identity(2)) is None


def test_a_ctime_younger_than_the_settling_time_is_not_kept() -> None:
    cache = HashCache(4)
    cache.put(identity(), outcome("sha256"), SETTLED - 1)
    assert len(cache) == 0
    cache.put(identity(), outcome("sha256"), SETTLED)
    assert len(cache) == 1


def test_a_ctime_in_the_future_is_not_kept() -> None:
    cache = HashCache(4)
    cache.put(identity(ctime_ns=SETTLED + 1), outcome("sha256"), SETTLED)
    assert len(cache) == 0


@pytest.mark.parametrize("state", [state for state in HashState if state is not HashState.OK])
def test_no_failure_is_kept(state: HashState) -> None:
    cache = HashCache(4)
    cache.put(identity(), HashOutcome(state), SETTLED)
    assert len(cache) == 0


def test_a_further_digest_is_merged_with_those_known() -> None:
    cache = HashCache(4)
    cache.put(identity(), outcome("sha256", "md5"), SETTLED)
    assert cache.get(identity(), ("sha256", "sha1")) is None
    cache.put(identity(), outcome("sha256", "sha1"), SETTLED)
    everything = ("sha256", "sha1", "md5")
    assert cache.get(identity(), everything) == outcome(*everything)


def test_only_the_digests_asked_for_are_given() -> None:
    cache = HashCache(4)
    cache.put(identity(), outcome("sha256", "sha512", "md5"), SETTLED)
    assert cache.get(identity()) == outcome("sha256")
    assert cache.get(identity(), ("sha256", "md5")) == outcome("sha256", "md5")


def test_the_longest_unused_is_forgotten_first() -> None:
    cache = HashCache(2)
    cache.put(identity(1), outcome("sha256"), SETTLED)
    cache.put(identity(2), outcome("sha256"), SETTLED)
    cache.get(identity(1))
    cache.put(identity(3), outcome("sha256"), SETTLED)
    assert len(cache) == 2
    assert cache.get(identity(2)) is None
    assert cache.get(identity(1)) is not None


def test_putting_a_file_again_counts_as_use() -> None:
    cache = HashCache(2)
    for inode in (1, 2, 1, 3):
        cache.put(identity(inode), outcome("sha256"), SETTLED)
    assert cache.get(identity(2)) is None
    assert cache.get(identity(1)) is not None
