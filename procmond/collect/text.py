"""Bytes of paths, names and arguments as text. One rule: every byte string becomes text, none is refused.

The kernel promises no encoding for names, paths and arguments (path_resolution(7)); the schema's strings are
UTF-8. What is not UTF-8 is written as `\\xnn`, lower-case, byte by byte.
"""

from __future__ import annotations


def text(raw: bytes) -> str:
    """The text of `raw`: UTF-8 as it is, each byte that is not part of any as `\\xnn`.

    Not reversible: a literal backslash followed by `x9b` in the input looks the same afterwards.
    """
    return raw.decode("utf-8", "backslashreplace")
