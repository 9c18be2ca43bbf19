"""Finds the secrets of a whole command line. One rule: what a program's own syntax says wins over guesses.

A command line is a list of words; wrappers (`sudo`, `timeout 5`) are looked through, and the shell text of
`sh -c`, `su -c` or `ssh host` is split into command lines of its own, to a bounded depth, without recursion.
"""

from __future__ import annotations

from typing import Final

from procmond.collect.redaction_names import (
    NAME_LIMIT,
    is_file_for,
    is_pair_name,
    is_secret_name,
    looks_like_header,
    may_hold_name,
)
from procmond.collect.redaction_options import Notes, looks_like_option, read_options
from procmond.collect.redaction_rules import PROGRAMS
from procmond.collect.redaction_shapes import Span, secret_part
from procmond.collect.redaction_shell import Command, Word, split
from procmond.collect.redaction_text import text_spans
from procmond.collect.redaction_wrappers import (
    MAX_NESTING,
    READS_SECRET,
    READS_SECRET_WITH,
    SHELL_WORDS,
    SHELLS,
    SPEAKERS,
    WRAPPERS,
    Wrapper,
)

_SCHEMES: Final = frozenset({"bearer", "basic", "token", "digest", "negotiate", "apikey"})
_COMMAND_OPTIONS: Final = frozenset({"-c", "--command"})

_JOINTS_OF_VALUES: Final = frozenset("=:/")
"""An option with one of these has its value behind it; none of them occurs in an option's name."""

_WORD_LIMIT: Final = 16
"""Characters of a subcommand or of a cluster of option letters; longer ones are neither."""


def base_name(path: str) -> str:
    """The program's name: the last part of its path, without the dash of a login shell."""
    return path[path.rfind("/") + 1 :].removeprefix("-")


def command_spans(argv: tuple[str, ...], executable: str | None) -> dict[int, list[Span]]:
    """The secrets by argument, unsorted and perhaps overlapping; never any in argument 0."""
    return _Search(argv, executable).found


class _Search:
    """The search through one argument vector: what was found, and the shell text still to be taken apart."""

    def __init__(self, argv: tuple[str, ...], executable: str | None) -> None:
        self.found: dict[int, list[Span]] = {}
        self.scripts: list[tuple[list[Word], int]] = []
        names = {base_name(argv[0])}
        if executable:
            names.add(base_name(executable))
        self._read_command([Word(argument, index) for index, argument in enumerate(argv)], names, 0, 0)
        while self.scripts:
            parts, depth = self.scripts.pop()
            if depth > MAX_NESTING:
                for index, part in enumerate(parts):
                    self._search_text(part, prose=False)
                    self._search_next(parts, index)
            else:
                self._read_script(split(parts), depth)

    def _emit(self, word: Word, start: int, stop: int) -> None:
        part = secret_part(word.text, start, stop)
        if part is not None:
            self.found.setdefault(word.argument, []).append(word.locate(*part))

    def _read_script(self, commands: list[Command], depth: int) -> None:
        for index, command in enumerate(commands):
            words = command.words
            first = _first_of(words)
            name = base_name(words[first].text) if first < len(words) else ""
            self._read_command(words, {name}, first, depth)
            if command.piped and name in SPEAKERS and index + 1 < len(commands):
                self._read_pipe(words[first + 1 :], commands[index + 1].words)

    def _read_pipe(self, spoken: list[Word], reader: list[Word]) -> None:
        """What echo says to a program that reads a password (`echo alice:X | sudo chpasswd`)."""
        names = [base_name(word.text) for word in reader]
        told = {word.text for word in reader}
        sudo = names[0] == "sudo" and "-S" in told
        if sudo or not (READS_SECRET.isdisjoint(names) and READS_SECRET_WITH.isdisjoint(told)):
            for word in spoken:
                if not word.text.startswith("-"):
                    self._emit(word, word.text.find(":") + 1, len(word.text))

    def _read_command(self, words: list[Word], names: set[str], first: int, depth: int) -> None:
        """One command line: the rules of its programs, the scripts it carries, what all programs share."""
        notes = Notes()
        for name in names:
            self._follow(words, first, name, notes, depth)
        for index, start, stop in notes.secrets:
            self._emit(words[index], start, stop)
        for index in range(0 if depth else 1, len(words)):
            if index not in notes.scripts:
                self._search_text(words[index], prose=index in notes.prose)
                if index not in notes.innocent:
                    self._search_next(words, index)

    def _follow(self, words: list[Word], start: int, name: str, notes: Notes, depth: int) -> None:
        """Apply the rules of the program and, through wrappers, of those that it runs."""
        while True:
            wrapper = WRAPPERS.get(name)
            inner = _inner_command(wrapper, words, start + 1) if wrapper else len(words)
            program = PROGRAMS.get(name)
            if start + 1 < len(words):
                program = PROGRAMS.get(f"{name} {words[start + 1].text[:_WORD_LIMIT]}", program)
            if program:
                read_options(program, words, start, inner, notes)
            if name in SHELLS:
                for index in _shell_texts(words, start + 1, inner):
                    self._add_script(words[index : index + 1], range(index, index + 1), notes, depth)
            if inner >= len(words):
                return
            if (wrapper and wrapper.as_text) or words[inner].text in _COMMAND_OPTIONS:
                inner += words[inner].text in _COMMAND_OPTIONS
                self._add_script(words[inner:], range(inner, len(words)), notes, depth)
                return
            start, name = inner, base_name(words[inner].text)

    def _add_script(self, parts: list[Word], indexes: range, notes: Notes, depth: int) -> None:
        if not notes.scripts.issuperset(indexes):
            notes.scripts.update(indexes)
            self.scripts.append((parts, depth + 1))

    def _search_text(self, word: Word, *, prose: bool) -> None:
        for start, stop in text_spans(word.text, prose=prose):
            self._emit(word, start, stop)

    def _search_next(self, words: list[Word], index: int) -> None:
        """`--token X` and `X-Api-Key: X` in two arguments, `Authorization: Bearer X` in three."""
        text = words[index].text
        if index + 1 == len(words) or (text[:1] != "-" and text[-1:] != ":") or not may_hold_name(text):
            return
        following = words[index + 1]
        value = following.text
        if text.endswith(":") and looks_like_header(text[:-1]):
            if value.lower() in _SCHEMES and index + 2 < len(words):
                following = words[index + 2]
            self._emit(following, 0, len(following.text))
        elif text.startswith("-") and _JOINTS_OF_VALUES.isdisjoint(text) and not looks_like_option(value):
            if is_pair_name(text):
                if ":" in value and "://" not in value:
                    self._emit(following, value.find(":") + 1, len(value))
            elif is_secret_name(text) and not is_file_for(text, value):
                self._emit(following, 0, len(value))


def _first_of(words: list[Word]) -> int:
    """The index of the command's name, behind assignments and reserved words."""
    for index, word in enumerate(words):
        if word.text not in SHELL_WORDS and not is_assignment(word.text):
            return index
    return len(words)


def is_assignment(text: str) -> bool:
    """Whether this is NAME=VALUE, as a shell and env(1) take it."""
    sign = text.find("=", 0, NAME_LIMIT)
    return sign > 0 and text[:sign].replace("_", "a").isalnum()


def _inner_command(wrapper: Wrapper, words: list[Word], at: int) -> int:
    """The index of the command that the wrapper runs; the number of words if there is none."""
    left = wrapper.skip
    while at < len(words):
        text = words[at].text
        if wrapper.marker:
            if text in wrapper.marker:
                return min(at + 1, len(words))
        elif text.startswith("-"):
            if text in _COMMAND_OPTIONS and not left:
                return at
            at += _takes_next(wrapper, text)
        elif wrapper.as_text or not is_assignment(text):
            if not left:
                return at
            left -= 1
        at += 1
    return len(words)


def _takes_next(wrapper: Wrapper, text: str) -> bool:
    """Whether the next argument is this option's value."""
    if text.startswith("--"):
        return text in wrapper.words
    for index, letter in enumerate(text):
        if index and letter in wrapper.takes:
            return index + 1 == len(text)
    return False


def _shell_texts(words: list[Word], first: int, stop: int) -> list[int]:
    """The indexes of the arguments of `-c`, alone or among other letters (`bash -lc TEXT`)."""
    found: list[int] = []
    for index in range(first, stop - 1):
        text = words[index].text
        letters = text[1:_WORD_LIMIT]
        if text == "--command" or (text[:1] == "-" and letters.isalpha() and "c" in letters):
            following = index + 1
            while following < stop - 1 and words[following].text.startswith("-"):
                following += 1
            found.append(following)
    return found
