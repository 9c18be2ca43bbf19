"""Which collector looks at processes. One rule: what was named is what runs, what cannot be seen is said."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from typing import Final

from common.errors import ConfigError
from procmond.collect.guard import Guard
from procmond.collect.means import Given
from procmond.collect.procfs import ProcfsCollector
from procmond.collect.redaction import redact
from procmond.collect.settings import CollectorSettings
from procmond.collect.sighting import Collector
from procmond.collect.tasks import BpfCollector
from procmond.events.choice import Opened
from procmond.events.ebpf import Programs

_NO_PTRACE: Final = (
    "without CAP_SYS_PTRACE the executables, hashes, working directories and namespaces of other users' "
    "processes are not seen"
)
_NO_READ_SEARCH: Final = (
    "without CAP_DAC_READ_SEARCH executables and paths that only their owner may read are not hashed"
)
_NAMESPACE: Final = "procmond runs in a pid namespace of its own: processes outside of it are not seen"
_HIDEPID: Final = "/proc is mounted with hidepid: without CAP_SYS_PTRACE other users' processes are not seen"
_WITHHELD: Final = (
    "too many collectors hang in reads that never came back: command lines and images are not read any "
    "more; restart procmond once the processes that held them up are gone"
)
_INITIAL_PID_NAMESPACE: Final = "pid:[4026531836]"  # PROC_PID_INIT_INO, include/linux/proc_ns.h


def check_choice(name: str, opened: Opened) -> None:
    """For the supervisor, before it forks. Raises: ConfigError for a collector that does not work here."""
    if name == "bpf" and _iterator(opened) is None:
        why = opened.reason or "event_source leaves eBPF out"
        raise ConfigError(f"collector: bpf does not work here: {why}; use auto, procfs or psutil")
    if name == "psutil":
        import procmond.collect.processes  # noqa: F401 - loaded before the fork, and only where it is used


def _iterator(opened: Opened) -> Programs | None:
    """The loaded programs, if they can list tasks."""
    programs = opened.programs
    return None if programs is None or programs.tasks is None else programs


def choose(
    settings: CollectorSettings, guard: Guard, capabilities: Collection[str], opened: Opened
) -> tuple[Collector, tuple[str, ...]]:
    """The collector in force and its limitations, a sentence each; `capabilities` are those it has."""
    replace = redact if settings.redact_arguments else None
    given = Given(
        boot_time=settings.boot_time,
        guard=guard,
        memory_device=settings.memory_device,
        environment_names=frozenset(settings.environment_variables),
    )
    programs = _iterator(opened) if settings.collector in {"auto", "bpf"} else None
    collector: Collector
    if settings.collector == "psutil":
        from procmond.collect.processes import PsutilCollector

        collector = PsutilCollector(replace, **given)
    elif programs is not None:
        collector = BpfCollector(replace, programs=programs, **given)
    else:
        collector = ProcfsCollector(replace, **given)
    return collector, tuple(_limitations(guard, capabilities))


def _limitations(guard: Guard, capabilities: Collection[str]) -> Iterator[str]:
    if "CAP_SYS_PTRACE" not in capabilities:
        yield _NO_PTRACE
        if not os.path.exists("/proc/1/stat"):
            yield _HIDEPID
    if "CAP_DAC_READ_SEARCH" not in capabilities:
        yield _NO_READ_SEARCH
    if os.readlink("/proc/self/ns/pid") != _INITIAL_PID_NAMESPACE:
        yield _NAMESPACE
    if guard.reads_nothing:
        yield _WITHHELD
