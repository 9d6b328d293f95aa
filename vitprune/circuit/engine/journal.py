"""The decisions of a search, written down as they are taken, so that an interrupted search goes on where it stopped.

What resuming needs is here: the key that tells one search from another, the file, and the decisions that are known from
it. The circuit must be computed from scratch at the same points in a resumed search.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import IO, Self

import torch
from pydantic import ValidationError

from vitprune.circuit.circuit import ALL_RECEIVERS, Decision
from vitprune.circuit.engine.known import Known, Position, RefreshSchedule
from vitprune.circuit.graph import Graph
from vitprune.circuit.problem import Problem
from vitprune.core.compute.distributed import wait_for_all, world
from vitprune.errors import CircuitError
from vitprune.options import Options
from vitprune.storage import write_text

logger = logging.getLogger(__name__)

FORMAT = 2


class ForeignDecision(Exception):
    """A journal holds a decision that the search does not come to; the search has to start afresh without it."""


class Journal(Known):
    """The decisions of one search: those that an interrupted run left in a file, and those taken since.

    The search takes decisions from ``next_known`` until there are none, and hands every decision to ``record``. With
    several ranks, all read the file and the main one writes it. Without a ``path`` nothing is known and nothing is
    written.

    Each line has a digest of its decision and of all lines before it, down to the ``key``. So only decisions of
    this search are known, in their order: from the first line on that does not follow from those before it, what is in
    the file is left out, and a log line says so. A search ``is_afresh`` takes nothing from the file.

    Raises CircuitError if the file cannot be read or written.
    """

    may_be_foreign = True

    def __init__(self, graph: Graph, path: Path | None = None, key: str = "", *, is_afresh: bool = False) -> None:
        self._path = path
        self._file: IO[str] | None = None
        self._digest = ""
        super().__init__(self._open(path, key, is_afresh=is_afresh) if path else [])
        self._recorded = 0
        self._refreshes_ahead = _count_refreshes(graph, self._decisions)

    def _open(self, path: Path, key: str, *, is_afresh: bool) -> list[Decision]:
        """Read the known decisions, and write them back without whatever followed them."""
        head = json.dumps({"format": FORMAT, "key": key})
        try:
            found_head, *found = path.read_bytes().split(b"\n") if path.is_file() and not is_afresh else [head.encode()]
            self._digest, known = _follow(head, found if found_head == head.encode() else [])
            _report(path, is_ours=found_head == head.encode(), lines=len(found), known=len(known))
            # No rank may still be reading when the main one starts to write.
            wait_for_all()
            if world().is_main:
                path.parent.mkdir(parents=True, exist_ok=True)
                kept = [head, *(line.decode() for line in found[: len(known)])]
                write_text(path, "".join(f"{line}\n" for line in kept))
                self._file = path.open("a", encoding="utf-8")
        except OSError as error:
            raise CircuitError(f"{path}: the journal of the search cannot be read or written ({error})") from error
        return known

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close the file. It stays on disk; whoever started the search removes it."""
        if self._file:
            self._file.close()

    def record(self, decision: Decision) -> None:
        """Take note of a decision, and write it down unless it is a known one."""
        self._schedule.count(decision)
        self._recorded += 1
        if self._file and self._recorded > len(self._decisions):
            self._digest = _digest(self._digest, decision)
            try:
                self._file.write(json.dumps({"digest": self._digest, "decision": asdict(decision)}) + "\n")
                self._file.flush()
            except OSError as error:
                # Closing would try to write the rest once more.
                with suppress(OSError):
                    self._file.close()
                raise CircuitError(f"{self._path}: the journal of the search cannot be written ({error})") from error

    @property
    def is_ahead_of_refresh(self) -> bool:
        """Whether a refresh comes before the first new decision, so that known ones need no computation until then.

        A resumed search thereby goes through the same states as one that was never interrupted, at little cost.
        """
        return self._refreshes_ahead > 0

    def needs_refresh(self, position: Position) -> bool:
        """Whether the circuit must be computed from scratch before the next decision, which is at ``position``."""
        if not self._schedule.is_due(position):
            return False
        self._refreshes_ahead -= 1
        return self._refreshes_ahead <= 0

    def needs_refresh_now(self) -> bool:
        """Never: a refresh that no uninterrupted search takes would change the last digits."""
        return False


def search_key(problem: Problem, options: tuple[object, ...]) -> str:
    """A digest of everything that the decisions of a search depend on."""
    ablation, labels = problem.ablation, problem.labels
    digest = hashlib.sha256(repr((problem.graph, ablation.kind, ablation.std, ablation.seed, options)).encode())
    tensors = [
        *problem.model.state_dict().values(),
        problem.images,
        ablation.embed,
        *ablation.heads,
        *ablation.neurons,
        ablation.sources,
    ]
    tensors += [each for each in (labels, problem.rivals) if each is not None]
    for tensor in tensors:
        digest.update(repr((tensor.dtype, tuple(tensor.shape))).encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _count_refreshes(graph: Graph, decisions: Sequence[Decision]) -> int:
    """How many times a search that took these decisions has computed the circuit from scratch."""
    schedule, refreshes = RefreshSchedule(), 0
    for decision in decisions:
        refreshes += schedule.is_due(_position_of(graph, decision))
        schedule.count(decision)
    return refreshes


def _position_of(graph: Graph, decision: Decision) -> Position:
    if decision.receiver == ALL_RECEIVERS:
        return True, graph.senders[graph.sender_index[decision.sender]].layer
    return False, graph.receivers[graph.receiver_index[decision.receiver]].node.layer


class _Line(Options):
    """A line of a journal."""

    digest: str
    decision: Decision


def _follow(head: str, lines: list[bytes]) -> tuple[str, list[Decision]]:
    """The decisions in lines of a journal, up to the first that does not follow from those before it.

    With them the digest of the last one.
    """
    digest, decisions = hashlib.sha256(head.encode()).hexdigest(), []
    for line in lines:
        try:
            found = _Line.model_validate_json(line)
        except ValidationError:
            break
        expected = _digest(digest, found.decision)
        if found.digest != expected:
            break
        digest = expected
        decisions.append(found.decision)
    return digest, decisions


def _digest(before: str, decision: Decision) -> str:
    """The digest of a line that follows the one with the digest ``before``."""
    return hashlib.sha256(f"{before} {json.dumps(asdict(decision))}".encode()).hexdigest()


def _report(path: Path, *, is_ours: bool, lines: int, known: int) -> None:
    """Say what is used of a journal that was found; the last of its ``lines`` is empty if it is whole."""
    if not is_ours:
        logger.info("%s: is the journal of another search, or of another version; the search starts afresh", path)
    elif lines > known + 1:
        logger.info(
            "%s: line %d does not follow from those before it; the search goes on after %d decisions",
            path,
            known + 2,
            known,
        )
    elif known:
        logger.info("goes on from %s: %d decisions", path, known)
