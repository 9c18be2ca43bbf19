"""The real agent for tests, as the unprivileged user it is meant for."""

from __future__ import annotations

import asyncio
import os
import tempfile

from agent.config import AgentConfig
from agent.inventory import SweepReport
from agent.service import Agent, serve
from common.messages import ProcessRecord
from tests.support.daemons import Procmond, as_user

AGENT_UID = 61_999


def one_sweep(procmond: Procmond) -> dict[int, ProcessRecord]:
    """One sweep by the real agent, in a child of user `AGENT_UID`, by pid."""
    config = AgentConfig(socket=procmond.socket, state_dir=tempfile.gettempdir())

    def work() -> dict[int, ProcessRecord]:
        assert os.getresuid() == (AGENT_UID,) * 3
        reports: list[SweepReport] = []

        async def run() -> None:
            stop = asyncio.Event()

            def swept(report: SweepReport) -> None:
                reports.append(report)
                stop.set()

            await serve(Agent(config, 0, on_sweep=swept), stop)

        asyncio.run(run())
        return {record.pid: record for record in reports[0].answer.processes}

    return as_user(AGENT_UID, AGENT_UID, work)
