"""procmond as installed, in whose three processes every attack is tried. Runs inside the unit, by a drop-in.

Started as `python3.X -IS attack_unit.py`, with tests/support/attacks.py in a library beside it.
"""

from __future__ import annotations

import json
import os
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = ["/usr/lib/daemoneye", f"{HERE}/library"]

from common.listening import inherited  # noqa: E402
from common.service import listen_fds  # noqa: E402
from procmond.access import resolve_access  # noqa: E402 - the path had to be set
from procmond.config import load, parse_arguments  # noqa: E402
from procmond.main import supervise  # noqa: E402
from tests.support.attacks import ATTACKS, Role, Stage, outcome_of  # noqa: E402


def main() -> int:
    """Be procmond; each process writes what its attacks came to once it is confined."""
    with open(f"{HERE}/stage.json", encoding="utf-8") as file:
        stage = Stage(**json.load(file))
    resolved = load(parse_arguments([]), os.environ)
    access = resolve_access(resolved)
    assert access.front is not None
    front_uid, supervisor = access.front[0], os.getpid()

    def attack() -> None:
        if os.getpid() == supervisor:
            role = Role.SUPERVISOR
        else:
            role = Role.FRONT if os.geteuid() == front_uid else Role.COLLECTOR
        outcomes = {one.name: outcome_of(one, stage) for one in ATTACKS}
        os.write(
            2, json.dumps({"event": "attacked", "role": role.value, "outcomes": outcomes}).encode() + b"\n"
        )

    listener = inherited(listen_fds())
    assert listener is not None
    return supervise(listener, resolved, access, lambda: None, attack)


if __name__ == "__main__":
    sys.exit(main())
