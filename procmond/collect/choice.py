"""Which collector looks at processes. One rule: what was named is what runs, what cannot be seen is said."""

from __future__ import annotations

import os
from typing import Final

from common.errors import ConfigError
from procmond.collect.processes import PsutilCollector
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


def choose(settings: CollectorSettings) -> tuple[Collector, tuple[str, ...]]:
    """The collector in force and its limitations, a sentence each."""
    replace = redact if settings.redact_arguments else None
    kind = PsutilCollector if settings.collector == "psutil" else ProcfsCollector
    return kind(replace, boot_time=settings.boot_time), _limitations()


def _limitations() -> tuple[str, ...]:
    if os.geteuid() == 0:
        return ()
    return (_NOT_ROOT,)
