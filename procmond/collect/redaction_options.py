"""Reads the options of a program whose syntax is known. One rule: a letter means what it means there.

`-p 22` is a port to ssh and a secret to sshpass; `-U x` of zip is not `-U user%secret` of smbclient. The
tables in redaction_rules say which; this walks the arguments once, as getopt(3) would.
"""

from __future__ import annotations

from collections.abc import Sequence

from procmond.collect.redaction_rules import Program
from procmond.collect.redaction_shapes import MARK
from procmond.collect.redaction_shell import Word


class Notes:
    """What is known about the words of one command line, by index."""

    __slots__ = ("innocent", "prose", "scripts", "secrets")

    def __init__(self) -> None:
        self.secrets: list[tuple[int, int, int]] = []
        """Word, and the characters where its secret begins and ends."""
        self.innocent: set[int] = set()
        """Options that look as if a secret followed, and none does."""
        self.prose: set[int] = set()
        """Sentences: `password: x` in them is no assignment."""
        self.scripts: set[int] = set()
        """Shell text, searched by itself."""


def looks_like_option(text: str) -> bool:
    """Whether this is the next option, not the value of the one before (`--password --host x` prompts)."""
    bare = text.lstrip("-")
    dashes = len(text) - len(bare)
    name = bare.partition("=")[0].removesuffix(MARK)  # what was glued to it and hidden may have been letters
    if not 1 <= dashes <= 2:
        return False
    if not name:
        return True
    plain = name.replace("-", "").replace("_", "").replace(".", "")
    if len(plain) <= 1:
        return True
    return name[0].isalpha() and plain.isalpha() and (plain.islower() or dashes == 2)


def read_options(program: Program, words: Sequence[Word], first: int, stop: int, notes: Notes) -> None:
    """Note what the program's rules say about its arguments first + 1 .. stop - 1."""
    _Reader(program, words, stop, notes).read(first)


class _Reader:
    """One walk: where it is, and which arguments without a dash are still expected to be secrets."""

    def __init__(self, program: Program, words: Sequence[Word], stop: int, notes: Notes) -> None:
        self.program = program
        self.words = words
        self.stop = stop
        self.notes = notes
        self.at = 0
        self.awaited: list[int] = list(program.after.get("", ()))
        self.assigning = False
        self.login = program.login
        self.last_is_secret = False

    def read(self, first: int) -> None:
        self.at = first + 1
        while self.at < self.stop:
            text = self.words[self.at].text
            if not self._whole_word(text) and not self._glued(text):
                if text[:1] != "-" or len(text) == 1:
                    self._position(text)
                elif not text.startswith("--"):
                    self._letters(text)
            self.at += 1
        if self.last_is_secret and self.stop - first > 2:
            self._secret(self.stop - 1, 0)

    def _secret(self, index: int, start: int) -> None:
        self.notes.secrets.append((index, start, len(self.words[index].text)))

    def _whole_word(self, text: str) -> bool:
        """An option known by its whole name, its value behind `=`, behind `:`, or in the next argument."""
        program = self.program
        head, sign, _ = text.partition(":" if text.startswith("/") else "=")
        if head in program.prose:
            self.notes.innocent.add(self.at)
            self.notes.prose.add(self.at)
            if not sign:
                self.at += 1
                self.notes.prose.add(self.at)
        elif head in program.takes_words:
            self.notes.innocent.add(self.at)
            self._skip_value(taken=bool(sign))
        elif head in program.words or head in program.pair_words or head in program.assigned:
            if not sign and not self._has_value():
                return True
            index, start = (self.at, len(head) + 1) if sign else (self.at + 1, 0)
            self.at = index
            if head in program.words:
                self._secret(index, start)
            else:
                self._pair(index, start, program.separator if head in program.pair_words else "=")
        else:
            return False
        return True

    def _glued(self, text: str) -> bool:
        for prefix in self.program.prefixes:
            if text.startswith(prefix):
                if len(text) > len(prefix):
                    self._secret(self.at, len(prefix))
                return True
        return False

    def _letters(self, text: str) -> None:
        program = self.program
        for index in range(1, len(text)):
            letter = text[index]
            if letter == program.last_with:
                self.last_is_secret = True
            elif letter in program.takes:
                self._skip_value(taken=index + 1 < len(text))
                return
            elif letter in program.letters or letter in program.pair:
                glued = index + 1 < len(text)
                if glued or self._has_value():
                    word, start = (self.at, index + 1) if glued else (self.at + 1, 0)
                    self.at = word
                    if letter in program.letters:
                        self._secret(word, start)
                    else:
                        self._pair(word, start, program.separator)
                return
            elif not letter.isalnum():
                return

    def _has_value(self) -> bool:
        following = self.at + 1
        return following < self.stop and not looks_like_option(self.words[following].text)

    def _skip_value(self, *, taken: bool) -> None:
        if not taken and self._has_value():
            self.at += 1

    def _pair(self, index: int, start: int, separator: str) -> None:
        text = self.words[index].text
        sign = text.find(separator, start)
        if sign >= 0:
            self._secret(index, sign + 1)

    def _position(self, text: str) -> None:
        """An argument without a dash: perhaps a secret by its place, perhaps the word before one."""
        program = self.program
        if 1 in self.awaited:
            self._secret(self.at, 0)
        self.awaited = [count - 1 for count in self.awaited if count > 1]
        self.awaited += program.after.get(text) or program.after.get(text[:2], ())
        if self.assigning and text.partition("=")[2][:1] not in {"", "@"}:
            self._pair(self.at, 0, "=")
        self.assigning = self.assigning or text in program.assigns
        if self.login and "/" in text and "://" not in text and text[0] not in "/@":
            sign = text.rfind("@")
            self.notes.secrets.append((self.at, text.find("/") + 1, sign if sign >= 0 else len(text)))
            self.login = False
