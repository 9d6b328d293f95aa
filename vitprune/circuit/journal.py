"""The decisions of a search, written down as they are taken, so that an interrupted search goes on where it stopped."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import asdict
from itertools import takewhile
from pathlib import Path
from typing import IO

from vitprune.circuit.circuit import Decision
from vitprune.errors import CircuitError

FORMAT = 1


class Journal:
    """A file with a line that says which search it belongs to, and one line for each decision.

    A last line that was cut off is forgotten. ``key`` names everything that the decisions depend on: a journal of
    another search is started afresh.
    """

    def __init__(self, path: Path | None, key: str = "") -> None:
        self._known: list[Decision] = []
        self._repeated = 0
        self._file: IO[str] | None = None
        if path is None:
            return
        head = json.dumps({"format": FORMAT, "key": key})
        try:
            text = path.read_text("utf-8") if path.is_file() else ""
            lines = text.split("\n")[:-1]
            if lines and lines[0] == head:
                self._known = list(_decisions(lines[1:]))
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("w", encoding="utf-8")
            self._file.write(head + "\n")
        except OSError as error:
            raise CircuitError(f"{path}: the search cannot be written down there ({error})") from error
        # Without the line that was cut off.
        for decision in self._known:
            self._write_line(decision)
        self._file.flush()

    @classmethod
    def none(cls) -> Journal:
        """A journal that knows nothing and forgets everything."""
        return cls(None)

    @property
    def knows_more(self) -> bool:
        """Whether there are decisions of an earlier run that were not taken yet."""
        return bool(self._known)

    def take(self, belongs: Callable[[Decision], bool]) -> list[Decision]:
        """The next decisions of an earlier run, as long as they belong; they count as repeated."""
        found = list(takewhile(belongs, self._known))
        self._known = self._known[len(found) :]
        self._repeated += len(found)
        return found

    def write(self, decision: Decision) -> None:
        """Write down a decision, unless it is one that was repeated."""
        if not self._file:
            return
        if self._repeated:
            self._repeated -= 1
            return
        self._write_line(decision)
        self._file.flush()

    def close(self) -> None:
        """Close the file; it stays, for whoever started the search to remove."""
        if self._file:
            self._file.close()

    def _write_line(self, decision: Decision) -> None:
        assert self._file is not None
        self._file.write(json.dumps(asdict(decision)) + "\n")


def _decisions(lines: Iterable[str]) -> Iterable[Decision]:
    """The decisions of a journal, up to the first line that is not one."""
    for line in lines:
        try:
            yield Decision(**json.loads(line))
        except (ValueError, TypeError):
            return
