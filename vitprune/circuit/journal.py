"""The decisions of a search, written down as they are taken, so that an interrupted search goes on where it stopped."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict
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
        # What is known is written again as it is repeated, but never lost in between.
        for decision in self._known:
            self._write_line(decision)
        self._file.flush()
        self._repeated = 0

    @classmethod
    def none(cls) -> Journal:
        """A journal that knows nothing and forgets everything."""
        return cls(None)

    @property
    def known(self) -> int:
        """Decisions of an earlier run that are not repeated yet."""
        return len(self._known)

    def upcoming(self, count: int) -> list[Decision]:
        """Up to ``count`` decisions of an earlier run, in the order taken; they count as repeated."""
        found, self._known = self._known[:count], self._known[count:]
        if self._file:
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
