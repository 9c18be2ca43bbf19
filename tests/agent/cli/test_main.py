"""The command as a whole: usage, errors, signals, closed pipes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest

from agent.cli.options import build_parser, load_config
from common.errors import ConfigError
from common.messages import CollectionSummary, DetectionResult, DetectionTask
from tests.agent.cli.records import record
from tests.agent.cli.server import Cli, popen


def many(task: DetectionTask) -> Iterable[DetectionResult]:
    for start in range(0, 4000, 500):
        processes = tuple(record(pid) for pid in range(start + 1, start + 501))
        yield DetectionResult(more=True, processes=processes, boot_id="b0")
    yield DetectionResult(success=True, summary=CollectionSummary(), boot_id="b0")


def never(task: DetectionTask) -> Iterable[DetectionResult]:
    return ()


@pytest.mark.parametrize(
    "argv",
    [
        [],
        ["dance"],
        ["ps", "--nonsense"],
        ["ps", "--pid", "none"],
        ["ps", "--format", "xml"],
        ["ps", "--columns", "pid,shoe_size"],
        ["ps", "--sort", "shoe_size"],
        ["hash"],
        ["verify", "--all", "/bin/ls"],
        ["up", "--for", "soon"],
        ["ps", "--config", "/nonexistent.toml"],
        ["ps", "--server-user", "no such user"],
        ["ps", "--socket", "/" + "x" * 200],
    ],
)
def test_wrong_usage_is_one_line_and_exit_status_2(cli: Cli, argv: list[str]) -> None:
    outcome = cli.run(*argv)
    assert outcome.status == 2
    assert outcome.out == ""
    last = outcome.err.splitlines()[-1]
    assert last.startswith("daemoneye: ")
    assert "Traceback" not in outcome.err


def test_help_lists_the_commands_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        build_parser().parse_args(["--help"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    for command in ("up", "ps", "tree", "watch", "hash", "verify", "capabilities", "status"):
        assert f"\n    {command} " in text
    assert "events" not in text


@pytest.mark.parametrize("command", ["up", "ps", "tree", "watch", "hash", "verify", "capabilities", "status"])
def test_every_command_explains_itself(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        build_parser().parse_args([command, "--help"])
    assert ended.value.code == 0
    assert "--socket" in capsys.readouterr().out


def test_global_options_may_stand_on_either_side_and_the_later_wins() -> None:
    parser = build_parser()
    for argv in (
        ["--socket", "/a", "ps"],
        ["ps", "--socket", "/a"],
        ["--socket", "/b", "ps", "--socket", "/a"],
    ):
        config, _ = load_config(parser.parse_args(argv), {})
        assert config.socket == "/a"


def test_flags_come_before_the_environment_and_that_before_the_defaults() -> None:
    environment = {"DAEMONEYE_AGENT_SOCKET": "/env", "DAEMONEYE_AGENT_STATE_DIR": "/state"}
    said = build_parser().parse_args(["--socket", "/flag", "ps", "--config", os.devnull])
    config, server_uid = load_config(said, environment)
    assert (config.socket, config.state_dir, server_uid) == ("/flag", "/state", 0)


def test_relative_paths_start_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/usr")
    config, _ = load_config(
        build_parser().parse_args(["--socket", "p.sock", "ps", "--config", os.devnull]), {}
    )
    assert config.socket == "/usr/p.sock"


def test_the_configuration_file_is_read(tmp_path: Path) -> None:
    file = tmp_path / "agent.toml"
    file.write_text('socket = "/from/file"\n')
    config, _ = load_config(build_parser().parse_args(["ps", "--config", str(file)]), {})
    assert config.socket == "/from/file"
    file.write_text("sockets = 1\n")
    with pytest.raises(ConfigError, match="did you mean socket"):
        load_config(build_parser().parse_args(["ps", "--config", str(file)]), {})


def test_nobody_there_is_one_line_that_says_what_to_try(cli: Cli, tmp_path: Path) -> None:
    outcome = cli.run("ps", "--socket", str(tmp_path / "none"))
    assert outcome.status == 3
    assert outcome.err == (
        f"daemoneye: cannot reach procmond at {tmp_path}/none: "
        "there is no such socket; start procmond, or name its socket\n"
    )


def test_an_untrusted_server_is_not_asked(cli: Cli) -> None:
    with cli.server(never) as server:
        outcome = cli.run("ps", "--socket", server.path, "--server-user", str(os.geteuid() + 1))
        assert server.met.wait(10)
    assert outcome.status == 3
    assert f"uid {os.geteuid()} listens there" in outcome.err
    assert server.tasks == []


def test_a_closed_pipe_ends_it_silently(cli: Cli) -> None:
    with cli.server(many) as server:
        process = popen(
            *server.arguments(), "ps", "--format", "jsonl", stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        with process:
            assert process.stdout is not None
            assert process.stderr is not None
            assert json.loads(process.stdout.readline())["pid"] == 1
            process.stdout.close()
            assert process.stderr.read() == b""
            assert process.wait(10) == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_without_a_word(cli: Cli, number: signal.Signals) -> None:
    def one_frame(task: DetectionTask) -> Iterable[DetectionResult]:
        yield DetectionResult(more=True, processes=(record(1),), boot_id="b0")

    with cli.server(one_frame) as server:
        process = popen(
            *server.arguments(), "ps", "--format", "jsonl", stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        with process:
            assert process.stdout is not None
            assert process.stdout.readline()  # it is in the middle of the answer
            process.send_signal(number)
            out, err = process.communicate(timeout=10)
    assert (out, err, process.returncode) == (b"", b"", 4)


def test_a_signal_breaks_a_write_nobody_takes(cli: Cli) -> None:
    with cli.server(many) as server:
        process = popen(*server.arguments(), "ps", "--format", "jsonl", stdout=subprocess.PIPE)
        with process:
            assert process.stdout is not None
            assert process.stdout.readline()
            _until_blocked_in_write(process.pid)
            process.terminate()
            assert process.wait(10) == 4


def test_a_full_disk_is_one_line(cli: Cli) -> None:
    with cli.server(many) as server, open("/dev/full", "w") as full:
        process = popen(*server.arguments(), "ps", stdout=full, stderr=subprocess.PIPE)
        _, err = process.communicate(timeout=10)
    assert process.returncode == 4
    assert err == b"daemoneye: cannot write the output: No space left on device\n"


def test_an_encoding_without_the_letters_gets_escapes(cli: Cli) -> None:
    def answers(task: DetectionTask) -> Iterable[DetectionResult]:
        processes = (record(1, command_line=("日本",)),)
        yield DetectionResult(success=True, processes=processes, summary=CollectionSummary())

    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    with cli.server(answers) as server:
        process = popen(*server.arguments(), "ps", stdout=subprocess.PIPE, env=environment)
        out, _ = process.communicate(timeout=10)
    assert process.returncode == 0
    assert b"\\u65e5\\u672c" in out


def test_the_installed_command_runs() -> None:
    command = os.path.join(os.path.dirname(sys.executable), "daemoneye")
    result = subprocess.run([command, "--version"], capture_output=True, text=True, check=True)
    assert result.stdout.startswith("daemoneye ")


def _until_blocked_in_write(pid: int) -> None:
    while "pipe_write" not in Path(f"/proc/{pid}/wchan").read_text():
        os.sched_yield()
