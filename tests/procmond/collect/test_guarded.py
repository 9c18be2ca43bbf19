"""What is withheld from sweeps is withheld from questions about images too."""

from __future__ import annotations

import os

import pytest

from procmond.collect.guard import Guard
from procmond.collect.guarded import blocks_image
from procmond.collect.handlers import running_images
from procmond.collect.procfs_parse import parse_stat
from procmond.pulse import Pulse, Stage
from procmond.quarantine import Culprit, Withheld

FOR_EVER = float("inf")


def start_of(pid: int) -> int:
    with open(f"/proc/{pid}/stat", "rb") as file:
        return parse_stat(file.read()).start_ticks


def culprit(start_ticks: int) -> Withheld:
    return Withheld(culprits=(Culprit(os.getpid(), start_ticks, os.getuid(), Stage.IMAGE, FOR_EVER),))


WITHHELD = (
    culprit(start_of(os.getpid())),
    Withheld(users=((os.getuid(), FOR_EVER),)),
    Withheld(everyone=True),
)


@pytest.mark.parametrize("withheld", WITHHELD, ids=["culprit", "user", "everyone"])
async def test_what_a_sweep_must_not_look_at_is_not_looked_at(withheld: Withheld) -> None:
    assert blocks_image(Guard(None, withheld), os.getpid())
    assert os.getpid() not in dict(await running_images(Guard(None, withheld)))


@pytest.mark.parametrize("withheld", [Withheld(), culprit(1)], ids=["nothing", "another of that number"])
async def test_all_else_is_looked_at_and_the_pulse_shows_it(withheld: Withheld) -> None:
    pulse = Pulse()
    assert not blocks_image(Guard(pulse, withheld), os.getpid())
    assert pulse.read()[1:3] == (Stage.IMAGE, os.getpid())
    assert os.getpid() in dict(await running_images(Guard(None, withheld)))
    pulse.close()
