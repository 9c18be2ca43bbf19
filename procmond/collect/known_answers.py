"""Answers given before, by the file they are about. One rule: pure; who gives one again proves it anew.

Everything such an answer says of a file changes only together with its ctime, and a file whose ctime was too
young to prove anything has no digests in the hash cache, without which no answer is given again.
"""

from __future__ import annotations

from typing import NamedTuple

from common import limits
from common.messages import ExecutableReport, HashCheck, HashState
from procmond.collect.hash_cache import Algorithms
from procmond.collect.sighting import FileIdentity


class KnownAnswer(NamedTuple):
    """What was answered."""

    algorithms: Algorithms
    """The digests it took."""
    body: bytes
    """Encoded fields of a DetectionResult."""


class KnownAnswers:
    """At most `capacity` answers, the first to come forgotten first."""

    def __init__(self, capacity: int = limits.KNOWN_PATHS) -> None:
        self._capacity = capacity
        self._answers: dict[tuple[HashCheck, FileIdentity], KnownAnswer] = {}

    def get(self, check: HashCheck, identity: FileIdentity) -> KnownAnswer | None:
        """What the same question about the same, unchanged file was answered."""
        return self._answers.get((check, identity))

    def put(self, check: HashCheck, report: ExecutableReport, answer: KnownAnswer) -> None:
        """Remember `answer`, which holds `report`, if it is of the file alone and nothing is missing in it.

        Who runs a file without execute bits is no property of the file.
        """
        if report.hash_state is not HashState.OK or report.error_message or not report.mode & 0o111:
            return
        if len(self._answers) >= self._capacity:
            del self._answers[next(iter(self._answers))]
        identity = FileIdentity(
            report.device, report.inode, report.size, report.modified_ns, report.changed_ns
        )
        self._answers[check, identity] = answer
