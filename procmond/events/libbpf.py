"""libbpf.so.1 through ctypes. One rule: only the calls that are used, each with its types, none with policy.

Failures are OSError with the errno libbpf gives; what libbpf says about them is in `messages`. Reference:
libbpf.h and bpf.h of libbpf 1.0 and later.
"""

from __future__ import annotations

import ctypes
import os
from collections import deque
from contextlib import suppress
from typing import Any, Final

_NAME: Final = "libbpf.so.1"
_MAX_MESSAGES: Final = 200
"""Lines of libbpf's log that are kept, the latest: a verifier's complaint ends with its reason."""
_MAX_MESSAGE_BYTES: Final = 64 * 1024
"""Of one message; the verifier's whole log is one."""

_POINTER: Final = ctypes.c_void_p
_INT: Final = ctypes.c_int
_TEXT: Final = ctypes.c_char_p
_PRINT: Final = ctypes.CFUNCTYPE(_INT, _INT, ctypes.c_void_p, ctypes.c_void_p)
SAMPLE: Final = ctypes.CFUNCTYPE(_INT, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)
"""ring_buffer_sample_fn: (context, data, size) -> 0, or negative to stop."""

_SIGNATURES: Final[dict[str, tuple[Any, ...]]] = {  # name: result, arguments
    "libbpf_set_print": (_POINTER, _PRINT),
    "libbpf_num_possible_cpus": (_INT,),
    "bpf_object__open_file": (_POINTER, _TEXT, _POINTER),
    "bpf_object__load": (_INT, _POINTER),
    "bpf_object__close": (None, _POINTER),
    "bpf_object__find_map_by_name": (_POINTER, _POINTER, _TEXT),
    "bpf_object__find_program_by_name": (_POINTER, _POINTER, _TEXT),
    "bpf_map__fd": (_INT, _POINTER),
    "bpf_map__set_max_entries": (_INT, _POINTER, ctypes.c_uint32),
    "bpf_map__set_initial_value": (_INT, _POINTER, _TEXT, ctypes.c_size_t),
    "bpf_program__set_autoload": (_INT, _POINTER, ctypes.c_bool),
    "bpf_program__fd": (_INT, _POINTER),
    "bpf_program__attach": (_POINTER, _POINTER),
    "bpf_link__fd": (_INT, _POINTER),
    "bpf_link__destroy": (_INT, _POINTER),
    "bpf_iter_create": (_INT, _INT),
    "ring_buffer__new": (_POINTER, _INT, SAMPLE, _POINTER, _POINTER),
    "ring_buffer__consume": (_INT, _POINTER),
    "ring_buffer__free": (None, _POINTER),
}


class Libbpf:
    """The library, loaded once; every method raises OSError when the call fails."""

    def __init__(self) -> None:
        """Raises: OSError without errno when there is no libbpf.so.1, or one that lacks a function."""
        library = ctypes.CDLL(_NAME, use_errno=True)
        self.messages: deque[str] = deque(maxlen=_MAX_MESSAGES)
        self._functions: dict[str, Any] = {}
        for name, (result, *arguments) in _SIGNATURES.items():
            try:
                function = getattr(library, name)
            except AttributeError:
                raise OSError(f"{_NAME} has no {name}") from None
            function.restype = result
            function.argtypes = arguments
            self._functions[name] = function
        self._libc = ctypes.CDLL(None)
        self._format = self._libc.vsnprintf
        self._format.argtypes = (_POINTER, ctypes.c_size_t, _POINTER, _POINTER)
        self._print = _PRINT(self._keep)  # must live as long as libbpf may call it
        self._functions["libbpf_set_print"](self._print)

    def _keep(self, level: int, form: int, arguments: int) -> int:
        if level <= 1:  # LIBBPF_WARN, LIBBPF_INFO; not LIBBPF_DEBUG
            text = ctypes.create_string_buffer(_MAX_MESSAGE_BYTES)
            self._format(text, len(text), form, arguments)
            self.messages.extend(text.value.decode("utf-8", "backslashreplace").splitlines())
        return 0

    def call(self, name: str, *arguments: Any) -> int:
        """Call a function that returns a pointer, a descriptor or 0.

        Raises:
            OSError: it returned NULL or a negative number; with the errno it set.
        """
        ctypes.set_errno(0)
        result = self._functions[name](*arguments)
        if result is None or result < 0:
            error = ctypes.get_errno() or (-result if result else 0)
            raise OSError(error, f"{name}: {os.strerror(error)}")
        return int(result)

    def release(self, name: str, pointer: int) -> None:
        """Call a function that frees what `pointer` points to; it cannot fail."""
        self._functions[name](pointer)

    def trim(self) -> None:
        """Hand freed memory back to the kernel: looking through its types takes some 12 MB for a moment."""
        with suppress(AttributeError):  # a C library other than glibc hands it back by itself
            self._libc.malloc_trim(0)
