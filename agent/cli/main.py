"""`daemoneye`. One rule: whatever goes wrong is one line on stderr and an exit status, never a traceback.

A reader that closes the pipe, SIGINT and SIGTERM end it without a word.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import os
import signal
import sys
from collections.abc import Coroutine, Sequence
from types import FrameType
from typing import Any

from agent.cli.exits import FINE, PARTIAL, USAGE, status_of
from agent.cli.options import build_parser, load_config
from agent.cli.output import Output, complain, discard_output
from agent.cli.terminal import screen_of
from agent.client import Client
from agent.config import AgentConfig
from common import __version__
from common.errors import DaemonEyeError

Work = Coroutine[Any, Any, int]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command in `argv` (default: the process's own arguments); the exit status, see agent.cli.exits.

    Raises: SystemExit for --help and --version.
    """
    _prepare_streams()
    try:
        return _run(sys.argv[1:] if argv is None else argv)
    except DaemonEyeError as error:
        complain(str(error))
        return status_of(error)
    except BrokenPipeError:
        discard_output()
        return FINE
    except (asyncio.CancelledError, KeyboardInterrupt):
        discard_output()
        return PARTIAL
    except OSError as error:
        discard_output()
        complain(f"cannot write the output: {error.strerror or error}")
        return PARTIAL


def _run(argv: Sequence[str]) -> int:
    parser = build_parser()
    said = parser.parse_args(argv)
    if said.command is None:
        parser.print_usage(sys.stderr)
        complain("which command? see daemoneye --help")
        return USAGE
    if said.command == "up":
        from agent.cli.up import run_up

        return run_up(said)
    config, server_uid = load_config(said, os.environ)
    output = Output(sys.stdout, said.format, screen_of(sys.stdout, full=said.full))
    client = Client(config.socket, server_uids=(server_uid,), version=__version__)
    return _run_until_signal(_command(said, client, config, output), output)


def _command(said: argparse.Namespace, client: Client, config: AgentConfig, output: Output) -> Work:
    """The coroutine of the command that was named."""
    # Only what the command needs is imported: `ps` should not wait for the rest.
    if said.command == "status":
        from agent.cli.status import run_status

        return run_status(client, config, output)
    if said.command == "capabilities":
        from agent.cli.status import run_capabilities

        return run_capabilities(client, said, output)
    if said.command in ("hash", "verify"):
        from agent.cli.executables import run_hash, run_verify

        return (run_hash if said.command == "hash" else run_verify)(client, said, output)
    if said.command == "watch":
        from agent.cli.watch import run_watch

        return run_watch(client, said, output)
    from agent.cli.ps import run_ps, run_tree

    return (run_ps if said.command == "ps" else run_tree)(client, said, output)


def _run_until_signal(work: Work, output: Output) -> int:
    """Run `work` to its end. Raises: CancelledError when SIGINT or SIGTERM came first."""

    async def framed() -> int:
        loop = asyncio.get_running_loop()
        task = loop.create_task(work, name="command")

        def stop(_number: int, _frame: FrameType | None) -> None:
            # A write that blocks on a slow reader would only be resumed; the exception breaks it.
            if output.writing:
                raise asyncio.CancelledError
            loop.call_soon_threadsafe(task.cancel)

        previous = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            return await task
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    return asyncio.run(framed())


def _prepare_streams() -> None:
    """Text that the terminal's encoding lacks is written as an escape instead of ending the command."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


if __name__ == "__main__":
    sys.exit(main())
