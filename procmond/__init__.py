"""The privileged collector: answers a table of questions about processes and judges nothing."""

import sys

# Where `rich` is installed structlog loads it, for coloured tracebacks. Root loads no terminal library.
sys.modules.setdefault("rich", None)  # type: ignore[arg-type]  # None is how the import system bars a module
