"""The decisions of a search, written down as they are taken, so that an interrupted search goes on where it stopped."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import IO

from vitprune.circuit.circuit import Decision
from vitprune.distributed import wait_for_all, world
from vitprune.errors import CircuitError
from vitprune.storage import write_text

FORMAT = 1


class Journal:
    """A file with a line that says which search it belongs to, and one line for each decision.

    ``known`` are the decisions of a search that was interrupted; they are taken again before new ones are written. A
    last line that was cut off is forgotten. ``key`` names everything that the decisions depend on: a journal of another
    search is started afresh. Of several ranks all read it and one writes.

    Raises CircuitError if the file cannot be read or written.
    """

    def __init__(self, path: Path, key: str) -> None:
        head = json.dumps({"format": FORMAT, "key": key})
        try:
            lines = path.read_text("utf-8").split("\n")[:-1] if path.is_file() else []
            self.known = _decisions(lines[1:]) if lines and lines[0] == head else []
            # What is written from here on, no rank must take for known.
            wait_for_all()
            self._file: IO[str] | None = None
            if world().is_main:
                path.parent.mkdir(parents=True, exist_ok=True)
                write_text(path, "".join(f"{line}\n" for line in (head, *map(_line, self.known))))
                self._file = path.open("a", encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise CircuitError(f"{path}: the search cannot be written down there ({error})") from error
        self._repeated = len(self.known)

    def write(self, decision: Decision) -> None:
        """Write down a decision, unless it is one that was known."""
        if self._repeated:
            self._repeated -= 1
        elif self._file:
            self._file.write(_line(decision) + "\n")
            self._file.flush()

    def close(self) -> None:
        """Close the file; it stays, for whoever started the search to remove."""
        if self._file:
            self._file.close()


def _line(decision: Decision) -> str:
    return json.dumps(asdict(decision))


def _decisions(lines: list[str]) -> list[Decision]:
    """The decisions of a journal, up to the first line that is not one."""
    found = []
    for line in lines:
        try:
            found.append(Decision(**json.loads(line)))
        except (ValueError, TypeError):
            break
    return found
