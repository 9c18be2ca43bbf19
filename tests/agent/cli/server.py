"""A scripted procmond in a thread, and the command run against it. One rule: a real socket, real frames."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple, Self

import msgspec
import pytest

from agent.cli.main import main
from common.messages import CapabilityResponse, DetectionResult, DetectionTask
from tests.support.peer import CAPABILITIES, Peer, scripted

Answers = Callable[[DetectionTask], Iterable[DetectionResult]]


class Outcome(NamedTuple):
    status: int
    out: str
    err: str


class Server:
    """Answers every task by `answers`; keeps the tasks it got."""

    def __init__(self, path: Path, answers: Answers, capabilities: CapabilityResponse | None) -> None:
        self.path = str(path)
        self.tasks: list[DetectionTask] = []
        self._answers = answers
        self._capabilities = capabilities
        self.met = threading.Event()
        """Somebody connected."""
        self._ready = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="scripted-procmond")

    def arguments(self) -> list[str]:
        return ["--socket", self.path, "--server-user", str(os.geteuid())]

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._ready.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)
        assert not self._thread.is_alive()
        if self._failure is not None:
            raise self._failure

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except BaseException as error:
            self._failure = error
            self._ready.set()

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        async with scripted(self.path, self._play):
            self._ready.set()
            await self._stop.wait()

    async def _play(self, peer: Peer) -> None:
        self.met.set()
        negotiation = await peer.task_or_end()
        if negotiation is None:
            return
        if self._capabilities is None:
            await peer.answer(DetectionResult(task_id=negotiation.task_id, error_message="unknown task type"))
        else:
            response = DetectionResult(
                task_id=negotiation.task_id, success=True, capability_response=self._capabilities
            )
            await peer.answer(response)
        while (task := await peer.task_or_end()) is not None:
            self.tasks.append(task)
            for number, result in enumerate(self._answers(task)):
                with contextlib.suppress(ConnectionResetError, BrokenPipeError):
                    await peer.answer(msgspec.structs.replace(result, task_id=task.task_id, sequence=number))


class Cli:
    """Runs commands against a scripted procmond."""

    def __init__(self, directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.socket = directory / "p.sock"
        self._capsys = capsys

    def run(self, *argv: str) -> Outcome:
        status = main(list(argv))
        captured = self._capsys.readouterr()
        return Outcome(status, captured.out, captured.err)

    @contextlib.contextmanager
    def server(
        self, answers: Answers, capabilities: CapabilityResponse | None = CAPABILITIES
    ) -> Iterator[Server]:
        with Server(self.socket, answers, capabilities) as server:
            yield server

    def ask(
        self, answers: Answers, *argv: str, capabilities: CapabilityResponse | None = CAPABILITIES
    ) -> Outcome:
        """Run one command against a server that answers by `answers`."""
        with self.server(answers, capabilities) as server:
            return self.run(*server.arguments(), *argv)


def popen(*argv: str, **options: object) -> subprocess.Popen[bytes]:
    """The command as a process of its own."""
    return subprocess.Popen([sys.executable, "-m", "agent.cli.main", *argv], **options)  # type: ignore[call-overload,no-any-return]  # options are Popen's own
