"""Which programs run others, or read a secret that others print. One rule: data only, no decision.

`sudo -u postgres psql`, `timeout 5 curl` and `docker exec db mysql` are looked through, so that the rules of
the program behind them apply.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

from procmond.collect.redaction_names import words_of

MAX_NESTING: Final = 4
"""Levels of shell text inside shell text that are taken apart; deeper text is searched as it stands."""


class Wrapper(NamedTuple):
    """How a program names the command that it runs."""

    takes: str = ""
    """Letters of its options that take a value."""
    words: frozenset[str] = frozenset()
    """Long options that take the next argument."""
    skip: int = 0
    """Arguments of its own between its options and the command."""
    marker: frozenset[str] = frozenset()
    """The command begins behind this word, instead."""
    as_text: bool = False
    """The command goes to a shell: its arguments are shell text."""


SHELLS: Final = words_of("sh bash dash ash zsh ksh mksh rbash fish csh tcsh su runuser script expect busybox")

_CONTAINER: Final = Wrapper(
    takes="acehlmpuvw",
    words=words_of(
        "--name --network --net --env --volume --publish --user --workdir --entrypoint --hostname --host"
        " --label --memory --cpus --restart --mount --env-file --add-host --platform --gpus --log-driver"
        " --log-opt --cap-add --cap-drop --secret --device --dns --pull --security-opt --shm-size --tmpfs"
    ),
    skip=2,
)
_PLAIN: Final = Wrapper()
_ONE: Final = Wrapper(skip=1)

WRAPPERS: Final[Mapping[str, Wrapper]] = {
    "sudo": Wrapper(
        takes="CDghpRrtTUu",
        words=words_of(
            "--user --group --prompt --host --chdir --chroot --role --type --other-user --close-from"
            " --command-timeout"
        ),
    ),
    "busybox": _PLAIN,
    "catatonit": _PLAIN,
    "cgexec": Wrapper(takes="g"),
    "chroot": _ONE,
    "chrt": Wrapper(takes="TPD", skip=1),
    "command": _PLAIN,
    "docker": _CONTAINER,
    "doas": Wrapper(takes="Cua"),
    "dumb-init": Wrapper(takes="r"),
    "env": Wrapper(takes="uC", words=words_of("--unset --chdir")),
    "eval": Wrapper(as_text=True),
    "exec": Wrapper(takes="a"),
    "faketime": Wrapper(takes="f", skip=1),
    "find": Wrapper(marker=words_of("-exec -execdir -ok -okdir")),
    "firejail": _PLAIN,
    "flock": Wrapper(takes="wE", words=words_of("--timeout --wait --conflict-exit-code"), skip=1),
    "gosu": _ONE,
    "ionice": Wrapper(takes="cnpPu", words=words_of("--class --classdata")),
    "kubectl": Wrapper(marker=words_of("--")),
    "ltrace": Wrapper(takes="aAbDeFlnopsuwx"),
    "nice": Wrapper(takes="n", words=words_of("--adjustment")),
    "nohup": _PLAIN,
    "nsenter": Wrapper(takes="tSG", words=words_of("--target --setuid --setgid")),
    "numactl": Wrapper(takes="iNmCpP"),
    "oc": Wrapper(marker=words_of("--")),
    "podman": _CONTAINER,
    "proxychains": Wrapper(takes="f"),
    "proxychains4": Wrapper(takes="f"),
    "rlwrap": Wrapper(takes="abcCDfFgHOPqsStwzl"),
    "runuser": Wrapper(takes="ugGcsw", words=words_of("--user --group --supp-group --command --shell")),
    "s6-setuidgid": _ONE,
    "screen": Wrapper(takes="cehpsStTX"),
    "setpriv": Wrapper(words=words_of("--reuid --regid --groups --securebits --inh-caps --bounding-set")),
    "setsid": _PLAIN,
    "setuidgid": _ONE,
    "ssh": Wrapper(takes="BbcDEeFIiJLlmOopQRSWw", skip=1, as_text=True),
    "sshpass": Wrapper(takes="pfdP"),
    "stdbuf": Wrapper(takes="ioe", words=words_of("--input --output --error")),
    "strace": Wrapper(takes="aAbeEIoOpPsSuUX"),
    "su-exec": _ONE,
    "systemd-inhibit": _PLAIN,
    "systemd-run": Wrapper(
        takes="pHMuEtG", words=words_of("--property --unit --setenv --uid --gid --slice --machine")
    ),
    "taskset": _ONE,
    "time": Wrapper(takes="fo", words=words_of("--format --output")),
    "timeout": Wrapper(takes="ks", words=words_of("--kill-after --signal"), skip=1),
    "tini": Wrapper(takes="pe"),
    "tmux": Wrapper(takes="LSfcnstxyFe", skip=1, as_text=True),
    "torsocks": Wrapper(takes="uap"),
    "unbuffer": _PLAIN,
    "unshare": Wrapper(takes="SGRw"),
    "valgrind": _PLAIN,
    "watch": Wrapper(takes="nq", words=words_of("--interval"), as_text=True),
    "xargs": Wrapper(
        takes="adEIiLlnPs", words=words_of("--max-args --max-procs --arg-file --delimiter --replace")
    ),
}

READS_SECRET: Final = words_of(
    "chpasswd chgpasswd newusers cryptsetup smbpasswd pdbedit kinit ecryptfs-add-passphrase vncpasswd"
)
"""Programs that read a secret from standard input: `echo X | chpasswd`."""

READS_SECRET_WITH: Final = words_of(
    "--password-stdin --stdin --passphrase-fd --with-token --pass-stdin --password-fd"
)
"""Options that make any program do so."""

SPEAKERS: Final = words_of("echo printf")

SHELL_WORDS: Final = words_of(
    "if then elif else do while until ! { time builtin export local declare readonly"
)
"""Words before a command's name in shell text."""
