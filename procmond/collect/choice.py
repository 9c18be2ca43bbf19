"""Which collector looks at processes. One rule: what was named is what runs, what cannot be seen is said."""

from __future__ import annotations

import os
from typing import Final

from common.errors import ConfigError
from procmond.collect.guard import Guard
from procmond.collect.procfs import ProcfsCollector
from procmond.collect.redaction import redact
from procmond.collect.settings import CollectorSettings
from procmond.collect.sighting import Collector

_NOT_ROOT: Final = (
    "procmond does not run as root: executables, hashes, working directories and namespaces of other "
    "users' processes are not seen"
)


def check_choice(name: str) -> None:
    """For the supervisor, before it forks. Raises: ConfigError for a collector that does not work here."""
    if name not in {"auto", "procfs", "psutil"}:
        raise ConfigError(f"collector: {name} is not built into this version; use auto, procfs or psutil")
    if name == "psutil":
        import procmond.collect.processes  # noqa: F401 - loaded before the fork, and only where it is used


def choose(settings: CollectorSettings, guard: Guard) -> tuple[Collector, tuple[str, ...]]:
    """The collector in force and its limitations, a sentence each."""
    replace = redact if settings.redact_arguments else None
    names = frozenset(settings.environment_variables)
    collector: Collector
    if settings.collector == "psutil":
        from procmond.collect.processes import PsutilCollector

        collector = PsutilCollector(
            replace, boot_time=settings.boot_time, guard=guard, environment_names=names
        )
    else:
        collector = ProcfsCollector(
            replace, boot_time=settings.boot_time, guard=guard, environment_names=names
        )
    return collector, _limitations()


def _limitations() -> tuple[str, ...]:
    if os.geteuid() == 0:
        return ()
    return (_NOT_ROOT,)
