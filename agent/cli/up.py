"""`daemoneye up`: both daemons for a first look. One rule: no file and no process is left behind."""

from __future__ import annotations

import argparse
import codecs
import contextlib
import os
import pwd
import random
import select
import shlex
import shutil
import signal
import socket
import stat
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from types import FrameType
from typing import Final

from agent.cli.daemons import Account, Child, Place, preload, run_agent, run_procmond, start, stop
from agent.cli.exits import FINE, PARTIAL
from agent.cli.human import duration
from agent.cli.identity import pick_id, taken_ids
from agent.cli.output import Output, complain, discard_output
from agent.cli.render import labelled
from agent.cli.terminal import Progress, screen_of
from common.errors import ConfigError, Unreachable
from common.limits import DEFAULT_TASK_DEADLINE_S
from common.setting import MAX_SOCKET_PATH_BYTES

START_TIMEOUT_S: Final = 10.0  # until procmond's socket is there; it takes a fraction of one
PROCMOND_GRACE_S: Final = 3.0  # both graces and the kills after them stay below the 5 s promised
AGENT_GRACE_S: Final = 1.0
FIRST_SWEEP_S: Final = DEFAULT_TASK_DEADLINE_S  # how far beyond --for the first inventory is waited for
LOG_LINES_SHOWN: Final = 10

_LOOK_S: Final = 0.05  # seconds between two looks for procmond's socket
_PROGRESS_S: Final = 0.5  # seconds between two looks at the clock while the first sweep takes its time
_LOG_TAIL_BYTES: Final = 65_536
_PIPE_BYTES: Final = 65_536


def run_up(said: argparse.Namespace) -> int:
    """Run both daemons until Ctrl-C, SIGTERM or the end of `--for`, not before an inventory; the exit status.

    Raises: ConfigError when there is no place for them; Unreachable when one of them ended by itself.
    """
    deadline = None if said.duration is None else time.monotonic() + said.duration
    preload()
    account = choose_account()
    output = Output(sys.stdout, "table", screen_of(sys.stdout))
    with _signals(output) as wakeup, _temporary_place(account) as place, contextlib.ExitStack() as stack:
        look = FirstLook(place, account, output, wakeup, stack, verbose=said.verbose)
        try:
            look.run(deadline)
        except KeyboardInterrupt:  # a signal, while a write waited for a slow reader
            discard_output()
            return FINE
    if look.told or not look.timed_out:
        return FINE
    complain(f"no inventory within {said.duration + FIRST_SWEEP_S:g} s; see its log with --verbose")
    return PARTIAL


def choose_account() -> Account:
    """Whom the agent runs as: an unused uid and gid if we are root, else ourselves. Raises: ConfigError."""
    if os.geteuid() != 0:
        return Account(os.geteuid(), os.getegid())
    number = pick_id(taken_ids(), random.SystemRandom().choice)
    return Account(number, number)


def suitable_directory(candidates: Sequence[str]) -> str:
    """The first of `candidates` that any uid can pass through and that leaves room for a socket's name.

    Raises: ConfigError when none does.
    """
    for candidate in candidates:
        path = os.path.realpath(candidate)
        longest = Place(os.path.join(path, "daemoneye-12345678")).control_socket
        if len(os.fsencode(longest)) <= MAX_SOCKET_PATH_BYTES and _anyone_may_pass(path):
            return path
    raise ConfigError(f"no place for a socket: tried {', '.join(candidates)}; set TMPDIR to a short path")


def introduction(
    place: Place, procmond: Child, agent: Child, account: Account, own_uid: int
) -> Iterator[tuple[str, str]]:
    """Who runs as whom, and how to ask: label and value."""
    yield "procmond", f"pid {procmond.pid}, runs as {_user(own_uid)}"
    if own_uid == 0:
        yield "daemoneye-agent", f"pid {agent.pid}, runs as uid {account.uid}, which nothing else here has"
    else:
        yield "daemoneye-agent", f"pid {agent.pid}, runs as {_user(account.uid)}"
        yield "not seen", "what processes of other users run: without root they are listed, but not hashed"
    yield "socket", place.socket
    trust = [] if own_uid == 0 else ["--server-user", str(own_uid)]
    yield "ask it", shlex.join([*this_program(sys.argv[0]), "--socket", place.socket, *trust, "ps"])
    control = ["--control-socket", place.control_socket]
    state = ["--state-dir", place.state_dir]
    yield (
        "its state",
        shlex.join(
            [*this_program(sys.argv[0]), "--socket", place.socket, *control, *state, *trust, "status"]
        ),
    )


def this_program(invoked: str) -> list[str]:
    """How to start this program again, given the name it was started by."""
    name = os.path.basename(invoked)
    if name.endswith(".py"):
        return [sys.executable, "-m", "agent.cli.main"]
    found = shutil.which(name)
    if found is not None and os.path.realpath(found) == os.path.realpath(invoked):
        return [name]
    return [invoked]


def last_lines(path: str, number: int) -> list[str]:
    """The last `number` lines of a log; none if it cannot be read."""
    try:
        with open(path, "rb") as stream:
            stream.seek(max(0, os.fstat(stream.fileno()).st_size - _LOG_TAIL_BYTES))
            return stream.read().decode(errors="replace").splitlines()[-number:]
    except OSError:
        return []


class FirstLook:
    """The two children of one run, and what they say. `stack` ends them, the agent first."""

    def __init__(
        self,
        place: Place,
        account: Account,
        output: Output,
        wakeup: socket.socket,
        stack: contextlib.ExitStack,
        *,
        verbose: bool,
    ) -> None:
        self.told = False
        """An inventory was printed."""
        self.timed_out = False
        self._place = place
        self._account = account
        self._output = output
        self._wakeup = wakeup
        self._stack = stack
        self._verbose = verbose

    def run(self, deadline: float | None) -> None:
        """Start both and relay what the agent tells, until a signal or `deadline` (of time.monotonic).

        Raises: Unreachable when one of them ended by itself.
        """
        place, account = self._place, self._account
        procmond = self._start("procmond", lambda: run_procmond(place, account), PROCMOND_GRACE_S)
        if not self._listens(procmond):
            return
        reader, writer = os.pipe()
        self._stack.callback(os.close, reader)
        screen, own_uid = self._output.screen, os.geteuid()

        def be_agent() -> int:
            os.close(reader)  # so that its writes fail when nobody reads any more
            return run_agent(place, account, own_uid, screen, writer)

        agent = self._start("daemoneye-agent", be_agent, AGENT_GRACE_S)
        os.close(writer)
        self._output.lines([*labelled(introduction(place, procmond, agent, account, own_uid), screen), ""])
        self._relay(reader, (procmond, agent), deadline)

    def _start(self, name: str, body: Callable[[], int], grace_s: float) -> Child:
        child = start(name, body, None if self._verbose else self._place.log(name))
        self._stack.callback(stop, child, grace_s)
        return child

    def _listens(self, procmond: Child) -> bool:
        """Wait for procmond's socket; False if a signal came first."""
        give_up = time.monotonic() + START_TIMEOUT_S
        watched: list[int | socket.socket] = [procmond.descriptor, self._wakeup]
        while not os.path.exists(self._place.socket):
            ready, _, _ = select.select(watched, [], [], _LOOK_S)
            if self._wakeup in ready:
                return False
            if procmond.descriptor in ready or time.monotonic() > give_up:
                raise self._failure(procmond)
        return True

    def _relay(self, reader: int, children: Sequence[Child], deadline: float | None) -> None:
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        began = time.monotonic()
        progress = Progress(began)
        watched: list[int | socket.socket] = [self._wakeup, reader, *(child.descriptor for child in children)]
        while True:
            now = time.monotonic()
            if deadline is not None and now >= deadline + (0.0 if self.told else FIRST_SWEEP_S):
                progress.finish()
                self.timed_out = True
                return
            if not self.told:
                progress.update(f"first sweep, {duration(now - began)}", now)
            if not self.told:
                wait: float | None = _PROGRESS_S
            else:
                wait = None if deadline is None else max(0.0, deadline - now)
            ready, _, _ = select.select(watched, [], [], wait)
            if reader in ready and (data := os.read(reader, _PIPE_BYTES)):
                progress.finish()
                self.told = True
                self._output.text(decoder.decode(data))
            if self._wakeup in ready:
                progress.finish()
                return
            for child in children:
                if child.descriptor in ready:
                    progress.finish()
                    raise self._failure(child)

    def _failure(self, child: Child) -> Unreachable:
        """The error for a daemon that ended or does not come up, after the last it said."""
        if not self._verbose:
            for line in last_lines(self._place.log(child.name), LOG_LINES_SHOWN):
                complain(f"{child.name}: {line}")
        remedy = "its last words are above" if not self._verbose else "its log is above"
        return Unreachable(child.name, self._place.directory, f"it ended or never came up; {remedy}")


@contextlib.contextmanager
def _signals(output: Output) -> Iterator[socket.socket]:
    """A socket that becomes readable on SIGINT and SIGTERM; they do nothing else but break a write."""
    receiver, sender = socket.socketpair()
    for end in (receiver, sender):
        end.setblocking(False)

    def handle(_number: int, _frame: FrameType | None) -> None:
        if output.writing:
            raise KeyboardInterrupt

    previous = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    signal.set_wakeup_fd(sender.fileno(), warn_on_full_buffer=False)
    try:
        yield receiver
    finally:
        signal.set_wakeup_fd(-1)
        for number, handler in previous.items():
            signal.signal(number, handler)
        receiver.close()
        sender.close()


@contextlib.contextmanager
def _temporary_place(account: Account) -> Iterator[Place]:
    """A directory of ours that `account` can look into, with its state directory; removed at the end."""
    candidates = [tempfile.gettempdir(), "/tmp", "/run"]  # noqa: S108 - mkdtemp makes a name nobody can foresee
    directory = tempfile.mkdtemp(prefix="daemoneye-", dir=suitable_directory(candidates))
    try:
        place = Place(directory)
        os.mkdir(place.state_dir, 0o700)
        if os.geteuid() == 0:
            os.chown(place.state_dir, account.uid, account.gid)
            os.chown(directory, 0, account.gid)
            os.chmod(directory, 0o750)  # noqa: S103 - the group is the agent's alone
        yield place
    finally:
        # Follows no link that the agent's uid may have left there (shutil.rmtree.avoids_symlink_attacks).
        shutil.rmtree(directory)


def _anyone_may_pass(directory: str) -> bool:
    """Whether any uid can reach what lies in `directory`; without root only our own counts."""
    if os.geteuid() != 0:
        return os.access(directory, os.W_OK | os.X_OK)
    while True:
        try:
            if not os.stat(directory).st_mode & stat.S_IXOTH:
                return False
        except OSError:
            return False
        if directory == "/":
            return True
        directory = os.path.dirname(directory)


def _user(uid: int) -> str:
    try:
        return f"{pwd.getpwuid(uid).pw_name} (uid {uid})"
    except KeyError:
        return f"uid {uid}"
