"""What was promised and what was observed. One rule: a promise nobody could look at is never a kept one."""

from __future__ import annotations

import json
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

KEPT: Final = "kept"
BROKEN: Final = "broken"


class Report:
    """Collects outcomes, and prints each as it comes."""

    def __init__(self) -> None:
        self.facts: dict[str, Any] = {}
        self.promises: list[dict[str, Any]] = []
        self._boot = ""

    def boot(self, name: str) -> None:
        """The promises that follow are about this boot."""
        self._boot = name
        sys.stdout.write(f"\n{name}\n")

    def check(self, promise: str, look: Callable[..., Any], *arguments: Any) -> bool:
        """Look, with `arguments`; what that returns is what was observed. Whether the promise was kept."""
        began = time.monotonic()
        try:
            outcome, observed = KEPT, look(*arguments)
        except Exception as error:
            outcome, observed = BROKEN, f"{type(error).__name__}: {error}"
            traceback.print_exc()
        seconds = round(time.monotonic() - began, 1)
        self.promises.append(
            {
                "boot": self._boot,
                "promise": promise,
                "outcome": outcome,
                "observed": observed,
                "seconds": seconds,
            }
        )
        shown = json.dumps(observed, ensure_ascii=False, default=str)
        sys.stdout.write(f"  {outcome:7} {seconds:6.1f} s  {promise}\n          {shown[:400]}\n")
        sys.stdout.flush()
        return outcome == KEPT

    def write(self, path: Path) -> None:
        """The report as JSON."""
        path.parent.mkdir(parents=True, exist_ok=True)
        document = {**self.facts, "promises": self.promises, "totals": self.totals()}
        path.write_text(json.dumps(document, indent=2, ensure_ascii=False, default=str) + "\n")

    def totals(self) -> dict[str, int]:
        """How many promises had each outcome."""
        outcomes = [promise["outcome"] for promise in self.promises]
        return {outcome: outcomes.count(outcome) for outcome in (KEPT, BROKEN)}
