"""Which environment variables are shown. One rule: an allow-list, for the rest is full of secrets.

They are those that make a program load code or take input it would not otherwise (ld.so(8) and the like
of interpreters), and those that tell where a session came from.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from procmond.collect.sighting import Redact

ENVIRONMENT_NAMES: Final = frozenset(
    {
        # the dynamic linker and the C library
        "GCONV_PATH",
        "GLIBC_TUNABLES",
        "LD_AUDIT",
        "LD_DEBUG_OUTPUT",
        "LD_LIBRARY_PATH",
        "LD_PRELOAD",
        "LD_PROFILE",
        # interpreters
        "BASH_ENV",
        "CLASSPATH",
        "ENV",
        "JAVA_TOOL_OPTIONS",
        "NODE_OPTIONS",
        "PATH",
        "PERL5LIB",
        "PERL5OPT",
        "PROMPT_COMMAND",
        "PYTHONHOME",
        "PYTHONPATH",
        "PYTHONSTARTUP",
        "RUBYLIB",
        "RUBYOPT",
        "_JAVA_OPTIONS",
        # where the session came from
        "DISPLAY",
        "HISTFILE",
        "SSH_CLIENT",
        "SSH_CONNECTION",
        "SSH_TTY",
        "SUDO_COMMAND",
        "SUDO_UID",
        "SUDO_USER",
    }
)

MAX_ENVIRONMENT_BYTES: Final = 128 * 1024
"""Of /proc/PID/environ, read at most. The kernel allows 6 MiB; what is allow-listed tends to stand early."""

MAX_VALUE_CHARACTERS: Final = 4096
"""Of one value; longer ones are cut at the end. PATH_MAX, as most values are paths."""


def select_environment(variables: Mapping[str, str], redact: Redact | None) -> dict[str, str]:
    """The allow-listed of `variables`, cut, and passed through `redact` like arguments."""
    selected: dict[str, str] = {}
    for name, value in variables.items():
        if name in ENVIRONMENT_NAMES:
            shown = value[:MAX_VALUE_CHARACTERS]
            # Behind a stand-in for argv[0], which is never redacted.
            selected[name] = redact(("", shown), None)[0][1] if redact is not None else shown
    return selected
