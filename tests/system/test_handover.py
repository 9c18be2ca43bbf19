"""The process connector handed over as procmond-connector.socket does it: procmond itself lives in an empty
network namespace, in which there is no connector.

The kernel answers only in the initial pid namespace, where no test may start systemd; so what systemd does is
done here in its place: the socket is made and bound first, then the namespace is left.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from common.messages import EventSource
from procmond.events.connector import Connection, open_connector
from tests.support.daemons import Procmond
from tests.support.live import EXEC, EXIT, PATIENCE_S, Live, response
from tests.support.privilege import needs_root
from tests.support.proofs import TRUE, run

pytestmark = needs_root

LAUNCHER = """
import ctypes, os, socket, sys
listener = socket.socket(socket.AF_UNIX)
listener.bind(sys.argv[sys.argv.index("--socket") + 1])
listener.listen(64)
passed = [listener]
if os.environ.pop("WITH_CONNECTOR") == "yes":
    connector = socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, 11)  # NETLINK_CONNECTOR
    connector.bind((0, 1))  # CN_IDX_PROC
    passed.append(connector)
assert ctypes.CDLL(None, use_errno=True).unshare(0x40000000) == 0  # CLONE_NEWNET
copies = [os.dup(each.fileno()) for each in passed]
for number, copy in enumerate(copies, 3):
    os.dup2(copy, number, inheritable=True)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS=str(len(passed)))
os.execv(sys.executable, [sys.executable, "-m", "procmond.main", *sys.argv[1:]])
"""


class HandedOver(Procmond):
    """A procmond that inherits its sockets."""

    program = ("-c", LAUNCHER)


@pytest.fixture(autouse=True)
def _kernel_answers() -> None:
    opened = open_connector()
    if not isinstance(opened, Connection):
        pytest.skip(f"no process connector here: {opened}")
    opened.close()


def test_in_an_empty_network_namespace_the_socket_handed_over_tells_every_run() -> None:
    with HandedOver("--event-source", "connector", environment={"WITH_CONNECTOR": "yes"}) as procmond:
        own, its = (os.readlink(f"/proc/{pid}/ns/net") for pid in ("self", procmond.pid))
        assert its != own
        assert response(procmond).event_source is EventSource.PROCESS_CONNECTOR
        with Live(procmond) as live:
            pids = [run(TRUE, f"handed{number}") for number in range(20)]
            live.exited(pids)
            for pid in pids:
                (ran,), (ended,) = live.of(EXEC, pid), live.of(EXIT, pid)
                assert (ran.start_ticks, ended.exit_code) == (ended.start_ticks, 0)
            assert not live.gaps()


def test_without_the_socket_the_connector_does_not_work_there(tmp_path: Path) -> None:
    command = (sys.executable, "-c", LAUNCHER, "--socket", str(tmp_path / "socket"))
    ended = subprocess.run(
        [*command, "--event-source", "connector"],
        env={**os.environ, "WITH_CONNECTOR": "no"},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert ended.returncode == 2, ended.stderr
    assert "connector does not work here" in ended.stderr
