"""The page the collector and the supervisor share, and what is read from it."""

from __future__ import annotations

import os
from typing import cast

from procmond.pulse import Pulse, Reading, Stage, StallDetector


def test_what_one_process_writes_the_other_reads() -> None:
    pulse = Pulse()
    pid = os.fork()
    if pid == 0:
        pulse.enter(Stage.ARGUMENTS, 4711, 2**40)
        os._exit(0)
    os.waitpid(pid, 0)
    assert pulse.read() == Reading(1, Stage.ARGUMENTS, 4711, 2**40)
    pulse.leave()
    assert pulse.read().stage is Stage.IDLE
    pulse.close()


def test_a_read_that_stands_still_is_a_stall_only_after_the_limit() -> None:
    detector = StallDetector(1.5)
    reading = Reading(7, Stage.IMAGE, 1, 1)
    assert not detector.observe(reading, 10.0)
    assert not detector.observe(reading, 11.4)
    assert detector.observe(reading, 11.5)


def test_progress_starts_the_clock_again() -> None:
    detector = StallDetector(1.5)
    detector.observe(Reading(7, Stage.IMAGE, 1, 1), 10.0)
    assert not detector.observe(Reading(8, Stage.IMAGE, 1, 1), 11.4)
    assert not detector.observe(Reading(8, Stage.IMAGE, 1, 1), 12.8)
    assert detector.observe(Reading(8, Stage.IMAGE, 1, 1), 12.9)


def test_idling_is_never_a_stall() -> None:
    detector = StallDetector(1.5)
    reading = Reading(7, Stage.IDLE, 1, 1)
    detector.observe(reading, 0.0)
    assert not detector.observe(reading, 1e6)


def test_a_stage_there_is_not_is_read_as_one_that_may_stall() -> None:
    pulse = Pulse()
    pulse.enter(cast(Stage, 9), 7, 1)
    assert pulse.read().stage is Stage.IMAGE
    pulse.close()
